"""Teachers: run in every step (`live`), read from stored answers (`stored`), or several at once."""
