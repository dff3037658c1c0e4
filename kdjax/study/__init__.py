"""What two or more experiments share: flags and data, training, reports and figures."""
