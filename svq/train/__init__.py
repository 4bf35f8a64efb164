"""Training: configs, heads, schedules, the one loop, checkpoints, and reading and writing of model folders.

svq/distill has the targets of students; svq/evaluation scores networks.
"""
