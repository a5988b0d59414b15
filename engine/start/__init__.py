"""Everything between a spec and the clock: loading, checking, sizing, wiring, warming up."""
