"""Prefill and decode in two engine processes, each with a pool of its own (``docs/phases.md``)."""
