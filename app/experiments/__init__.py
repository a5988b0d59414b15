"""Experiments: what is planned, how it is driven run by run, and what the runs say of it."""
