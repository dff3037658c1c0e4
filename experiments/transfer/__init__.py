"""Attacks that are made on surrogates, and attacks that ask, on one axis of queries."""
