"""Where a network comes from, and what is subtracted from what, as every results.json says it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

UNKNOWN = "unknown"


class Lineage(NamedTuple):
    """Where an arm comes from.

    `loss`: what it minimises; `teachers`: the arms whose answers, layers or variables it learns from; `source`: which
    images and labels, `split`: of which split, "" for images of none; `start`: the arm whose parameters it begins at,
    "" for fresh ones; `chosen_on`: the split that chose among settings or teachers, "none" where nothing was chosen;
    `facts`: what else tells this arm from another, such as which layers are compared.
    """

    loss: str
    teachers: tuple[str, ...] = ()
    source: str = "all labels"
    split: str = "train"
    start: str = ""
    chosen_on: str = "none"
    facts: Mapping[str, Any] = {}


class Pair(NamedTuple):
    """Which row is compared with which: a score of `first` minus that of `minus`, over the same seeds."""

    first: str
    minus: str
    score: str = "accuracy"

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.first} minus {self.minus}"


def as_data(lineage: Lineage, *, run: str, split: str, **more: Any) -> dict[str, Any]:
    """A network as data.

    Args:
        lineage: where it comes from.
        run: its folder among the checkpoints, "" for one of which none is kept.
        split: as it was typed for the lineage's, or `none`.
        more: how it was trained, such as `epochs`, `hparams` and `seeds`.
    """
    own = {**lineage._asdict(), "teachers": list(lineage.teachers), "start": lineage.start or "fresh"}
    return {"run": run, **own, "split": split, "facts": dict(lineage.facts), **more}


def trained_elsewhere(found: Mapping[str, Any], path: str, **facts: Any) -> dict[str, Any]:
    """A network of another run, or behind a service, as data.

    Args:
        found: what its own run says of it, with names of that run; nothing where that is not known.
        path: of the run, or of the service.
        facts: what else is to be said, such as which images are attacked.
    """
    nothing = as_data(Lineage(UNKNOWN, source=UNKNOWN, chosen_on=UNKNOWN), run="", split=UNKNOWN)
    whole = {**nothing, **found}
    return {**whole, "facts": {**whole["facts"], "from": path, **facts}}


def lineages(
    arms: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Iterable[str]],
    pairs: Mapping[Pair, Mapping[str, float] | None] | Sequence[Pair] = (),
) -> dict[str, Any]:
    """What results.json says beside its numbers: what was trained or attacked, of what, and what was subtracted.

    Args:
        arms: networks as data, by name.
        rows: of the table, or other parts of results.json, each with the networks that it is about.
        pairs: what is subtracted, with the difference; None where one seed has no interval.
    """
    differences = dict(pairs) if isinstance(pairs, Mapping) else dict.fromkeys(pairs)
    return {
        "pairs": [{**pair._asdict(), "difference": difference} for pair, difference in differences.items()],
        "arms": dict(arms),
        "rows": {name: list(own) for name, own in rows.items()},
    }
