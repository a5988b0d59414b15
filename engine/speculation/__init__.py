"""Speculative decoding: guess several tokens, verify them in one pass of the model, keep what it would have said anyway."""
