"""How a verifier policy scores completions: one method a file; `catalogue.load_method` finds one by name."""
