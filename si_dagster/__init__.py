"""si-dagster: LLM self-improvement as a declarative Dagster graph, with the gap measured at every iteration."""
