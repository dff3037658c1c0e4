"""Losses: arrays in, one number per example out. `response` is on logits, `kdjax.recipes.comparisons` finds a loss by name."""
