"""Papers' claims, run and judged: a claim file becomes an experiment, and its rows a verdict."""
