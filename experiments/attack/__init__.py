"""Attacks on a trained network."""
