"""Where distillation pays."""
