"""Losses: arrays in, one number per example out. `response` is on logits, `combine` finds a loss by name."""
