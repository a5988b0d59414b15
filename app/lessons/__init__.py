"""Lessons in the lab: what a learner predicted and when, the runs of a step, and what they say of the prediction."""
