"""One claim is one file, or one folder with `__main__.py` and rooms of its own; what two share is in `kdjax.study`."""
