"""The methods of the field on one pair of networks."""
