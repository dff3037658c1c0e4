"""Teachers: live, stored, or several as one. Each says which views of a batch it can answer."""

from kdjax.teachers.live import Teacher as Teacher
from kdjax.teachers.live import live as live
from kdjax.teachers.several import stack as stack
from kdjax.teachers.several import stacked as stacked
from kdjax.teachers.several import together as together
from kdjax.teachers.stored import cached as cached
from kdjax.teachers.stored import cached_top_k as cached_top_k
