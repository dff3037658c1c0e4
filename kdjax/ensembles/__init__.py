"""Many teachers' outputs become one: pools and gates, and teachers of different classes."""
