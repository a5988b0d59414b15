"""The path with custom kernels: a batch in flat form, a fused decoder, CUDA graphs, attention that reads the cache
where it lies."""
