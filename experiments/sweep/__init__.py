"""A study over hyper-parameters and seeds."""
