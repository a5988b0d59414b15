"""How fast, against whom: measurements with a goal, their raw results as JSON in ``results/``."""
