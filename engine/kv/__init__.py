"""The paged KV cache: a pool that hands out blocks and the tensors the blocks stand for."""
