"""Data sets with their prompts and their utility: one task a file, the head of the file is its card.

`catalogue.load_task` finds one by name. Not here: models, sampling, and what a grade is used for.
"""
