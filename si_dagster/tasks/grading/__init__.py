"""How completions are graded: finding the answer, comparing it in tiers, running untrusted code.

Extraction and comparison are separate files; what may hang or crash runs in worker processes. It
knows neither tasks nor prompts, and does not decide what a missing answer is worth.
"""
