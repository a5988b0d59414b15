"""Speculation: what guessing did, and where each token of an answer came from."""
