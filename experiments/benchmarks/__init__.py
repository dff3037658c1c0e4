"""One command, one table of seconds; workers and peers beside them."""
