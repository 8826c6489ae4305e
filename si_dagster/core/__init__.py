"""The arithmetic of self-improvement: gap, weighting, intervals, pass@k; numpy and scipy, no adapters."""
