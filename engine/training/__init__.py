"""Training draft heads: what no served run imports. ``python -m engine.training``."""
