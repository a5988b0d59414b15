"""Who computes how many tokens in the next iteration.

    plan <- books <- builder <- policies <- scheduler

``Books`` keep queues, places and blocks; a ``Policy`` hands out tokens by calling a ``PlanBuilder``; what comes out is
a ``Plan``.
"""
