"""The life of a run: its folder, the queue and the process that serves it, how it ends, what it left."""
