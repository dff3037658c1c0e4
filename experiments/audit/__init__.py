"""The audit of a defence."""
