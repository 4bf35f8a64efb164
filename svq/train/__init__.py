"""Training: configs, heads, schedules, the one loop, checkpoints, and what a run takes from folders and leaves there.

What a student is compared with is in svq/distill, what scores a network in svq/evaluation.
"""
