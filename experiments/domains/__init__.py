"""Experts of several domains teach one student."""
