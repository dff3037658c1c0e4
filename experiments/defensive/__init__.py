"""Defensive distillation, and what breaks it."""
