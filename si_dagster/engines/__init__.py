"""Who turns prompts into completions and log-probabilities; `registry.open_engine` opens one by name."""
