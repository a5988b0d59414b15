"""What the engine says: row types, recorder, spool, device sampler. Imports no other room."""
