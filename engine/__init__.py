"""What is studied: the serving engine. Imports telemetry only; knows no page, no database, no scenario."""
