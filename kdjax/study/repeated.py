"""A study made again: does every paired difference lie where the filed one says?

    python -m kdjax.study.repeated runs/regression docs/results/regression

Prints each pair with both numbers, and ends with 1 where a mean lies outside of the filed interval.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdjax.study import tool
from kdjax.types import BadInput


class Repeated(NamedTuple):
    """A pair's mean difference made again, and the filed one with the 95 % interval of its mean."""

    name: str
    again: float
    filed: Mapping[str, float]

    @property
    def holds(self) -> bool:
        """Whether it lies in the interval, or is the same number where there is none to speak of."""
        return self.filed["low"] <= self.again <= self.filed["high"]

    def __str__(self) -> str:
        low, mean, high = (self.filed[key] for key in ("low", "mean", "high"))
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return f"{self.name}: {self.again:+.4f}; filed {mean:+.4f} [{low:+.4f}, {high:+.4f}]: {verdict}"


def repeated(run: Path, filed: Path) -> list[Repeated]:
    """Every filed pair beside the same pair of a finished run.

    Raises:
        BadInput: a folder has no results of pairs, or the run lacks a pair.
    """
    again, found = _pairs(run), []
    for key, difference in _pairs(filed).items():
        if key not in again:
            raise BadInput(
                f"{run}: no difference {key[0]} minus {key[1]} in {key[2]}; accepted: the filed command's run."
            )
        found.append(Repeated(f"{key[0]} minus {key[1]}, {key[2]}", again[key]["mean"], difference))
    return found


def _pairs(folder: Path) -> dict[tuple[str, str, str], Mapping[str, float]]:
    try:
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    except OSError:
        raise BadInput(f"{folder}: no results.json; accepted: a finished run, and a folder of filed results.") from None
    pairs = {(p["first"], p["minus"], p["score"]): p["difference"] for p in results.get("pairs", ())}
    pairs = {key: difference for key, difference in pairs.items() if difference}
    if not pairs:
        raise BadInput(f"{folder}: no paired difference; accepted: studies of two seeds or more that subtract rows.")
    return pairs


def main(argv: Sequence[str]) -> int:
    """Compare; the exit code."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", type=Path)
        parser.add_argument("filed", type=Path)

    def act(given: argparse.Namespace) -> int:
        found = repeated(given.run, given.filed)
        print("\n".join(map(str, found)))
        return 0 if all(one.holds for one in found) else 1

    return tool.run("kdjax.study.repeated", __doc__, add, act, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
