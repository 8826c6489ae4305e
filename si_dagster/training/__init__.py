"""Who turns text into a checkpoint: pre-training of pico policies, fine-tuning on rows and on pairs.

Knows no study, no task and no Dagster graph; each trainer is a process that reads one spec file.
"""
