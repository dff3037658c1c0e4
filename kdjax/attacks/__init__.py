"""Attacks as products: objective x oracle x transform x projection x steps (x space, start, stop rule)."""
