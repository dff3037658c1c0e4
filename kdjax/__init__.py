"""Knowledge distillation and adversarial robustness in JAX: pure functions over arrays."""

__version__ = "0.1.0"
