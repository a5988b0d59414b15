"""Small kernels that do in one pass what PyTorch would do in several; for GPUs. Importing a module here needs Triton."""
