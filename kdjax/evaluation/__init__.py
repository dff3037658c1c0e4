"""What answers are worth, how near two networks are, and whether a difference over seeds is one."""

from kdjax.evaluation.classification import classification as classification
from kdjax.evaluation.fidelity import fidelity as fidelity
from kdjax.evaluation.paired import paired_difference as paired_difference
