"""The words that methods are written in."""

from typing import NamedTuple

from kdjax.spec import Call, Formula, Names, Schedule, Set

response, feature, relation, contrastive = map(Names, ("response", "feature", "relation", "contrastive"))
labels = Names().labels
stages, middle, final = Names().stages, Names().middle, Names().final
embedding = Names().embedding
clean, attacked, mirrored, linearized = Names().clean, Names().attacked, Names().mirrored, Names().linearized
student, teacher, natural = Names().student, Names().teacher, Names().natural
confidence, doubt, progress = Names().confidence, Names().doubt, Names().progress
certainty, uncertainty = Names().certainty, Names().uncertainty
class_risk, entropy_balance = Names().class_risk, Names().entropy_balance
pgd, fgsm_rs, gaussian = Names().pgd, Names().fgsm_rs, Names().gaussian

Number = float | Schedule | Set


class Method(NamedTuple):
    """How a paper teaches a student.

    Attributes:
        expression: what `lesson` takes.
        first: the share of the run that teaches layers alone, before the rest teaches answers and labels alone; 0: the
            run has one stage.
        attack: what makes the attacked view, and what it makes large, as `lesson` takes it; None: nobody is attacked.
        others: further teachers that the expression names, each with the folder of the run that trained it.
    """

    expression: Formula
    first: float = 0.0
    attack: Call | None = None
    others: tuple[tuple[str, str], ...] = ()
