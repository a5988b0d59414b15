"""Prefix sharing: what was spared, and the tree of prefixes."""
