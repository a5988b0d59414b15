"""What is asked of the engine: workloads, traces and scenario files. Imports ``engine.config`` only."""
