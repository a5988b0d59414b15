"""Compiling every kernel for GPUs that are not there: the engine's own launches, stopped where the driver would take over."""
