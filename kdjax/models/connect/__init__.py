"""What stands between a student's layers and a teacher's that are compared."""
