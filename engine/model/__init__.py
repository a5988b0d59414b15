"""The language model: its shape, its weights, and one decoder that covers the Llama family."""
