"""The papers' methods, one expression each: `distillation` from a teacher, `robust` against attacks."""

from kdjax.methods.method import FAMILY as FAMILY
from kdjax.methods.method import METHODS as METHODS
from kdjax.methods.method import ROBUST as ROBUST
from kdjax.methods.method import Method as Method
from kdjax.methods.method import bound as bound
from kdjax.methods.method import method as method
