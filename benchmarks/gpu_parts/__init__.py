"""The parts of ``benchmarks.gpu``: each takes a ``Bench`` and adds its figures and tables to the report."""
