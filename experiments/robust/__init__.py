"""Robust distillation: students of an adversarially trained teacher, by every method."""
