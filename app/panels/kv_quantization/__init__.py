"""KV quantization: room and quality per codec, and runs of the same requests with different codecs side by side."""
