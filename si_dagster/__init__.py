"""si-dagster: LLM self-improvement as a declarative Dagster graph, its gap measured at every iteration."""
