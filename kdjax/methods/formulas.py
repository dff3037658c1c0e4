"""The words that methods are written in."""

from typing import NamedTuple

from kdjax.spec import Formula, Names, Schedule, Set

response, feature, relation, contrastive = map(Names, ("response", "feature", "relation", "contrastive"))
labels = Names().labels
stages, middle, final = Names().stages, Names().middle, Names().final
embedding = Names().embedding

Number = float | Schedule | Set


class Method(NamedTuple):
    """How a paper teaches a student.

    Attributes:
        expression: what `lesson` takes.
        first: the share of the run that teaches layers alone, before the rest teaches answers and labels alone; 0: the
            run has one stage.
    """

    expression: Formula
    first: float = 0.0
