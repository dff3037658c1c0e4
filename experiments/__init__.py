"""One file is one table of a paper, or one claim. Files that start with an underscore are what they share."""
