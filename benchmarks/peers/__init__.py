"""The sides of a comparison on the same work; each runs in a process of its own and hands back one measurement."""
