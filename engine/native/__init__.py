"""Kernels for the processor at hand: written in Python (``code.py``), compiled in a moment when an engine starts
(``compile.py``), run by the threads that PyTorch has anyway (``team.py``)."""
