"""Watching an engine that is not ours: its metrics pages and messages, written as rows of a run."""
