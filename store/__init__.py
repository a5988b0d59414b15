"""What is remembered: DuckDB ingest, queries, metrics, live figures. Imports telemetry only."""
