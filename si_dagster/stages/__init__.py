"""What each stage of the loop does, with plain tables and an engine: usable from a notebook.

One stage, one file. No stage here knows Dagster, folders or manifests; `assets/` binds them to the graph.
"""
