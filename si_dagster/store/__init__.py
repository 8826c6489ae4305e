"""Bytes at rest: where they lie, what columns they have, who made them and from what.

Not here: Dagster, engines and tasks; the store is told what to keep. Import the modules, this file is empty.
"""
