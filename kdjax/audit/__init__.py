"""Checks that tell a real defence from masked gradients. The list is neither necessary nor sufficient."""
