"""Teacher assistants: a large network teaches a middle one, which teaches the small one.

    python -m experiments.assistants

Minutes on two shared cores with --seeds=20: assistants 7. Result: docs/results/README.md.

The teacher learns from every label; assistants and student have `--labels` labels, and answers for every image.
The small network learns, from the same initial parameters and over as many steps, from labels, from the large network,
and from the last assistant. Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, AAAI 2020.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from kdjax import models
from kdjax.config import field
from kdjax.study import command, students
from kdjax.study.compare import Pair, compare, tested
from kdjax.study.data import open_study
from kdjax.types import BadInput


@dataclass(frozen=True)
class Config(students.Flags):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/assistants", "folder for everything the run leaves", identity=False,
        smoke="runs/smoke/assistants",
    )  # fmt: skip
    model: str = field("mlp", "every network's kind", choices=models.names())
    chain: tuple[int, ...] = field(
        (256, 64, 10), "width of the one hidden layer of the teacher, each assistant and the student", low=1,
        smoke=(16, 8, 4),
    )  # fmt: skip
    labels: int = field(60, "labelled images of assistants and student, balanced over classes; 0 for all", low=0)
    epochs: int = field(100, "passes of each network over its images", low=1, smoke=2)


def main(config: Config, workdir: Path) -> None:
    """The chain, and its ends without it; for each seed."""
    if len(config.chain) < 3:
        raise BadInput(f"--chain={','.join(map(str, config.chain))}: accepted are three widths or more, largest first.")
    study = open_study(config, workdir)
    images = students.transfers(study, config)
    links = [
        students.student(study, config, students.network(study, replace(config, chain=(width,)), "chain"), images)
        for width in config.chain
    ]
    largest, *middle, small = links
    # The teacher learns from every label.
    teacher = replace(largest, images=[study.train] * config.seeds, config=replace(config, labels=0))
    alone, direct, assisted = (f"student {how}" for how in ("alone", "distilled directly", "distilled by assistant"))
    chain = ["teacher", *(f"assistant {width}" for width in config.chain[1:-1])]
    if len(set(chain)) < len(chain):
        chain = ["teacher", *(f"assistant {width} ({link})" for link, width in enumerate(config.chain[1:-1], 1))]
    arms = [
        teacher.from_labels("teacher", "teacher"),
        small.from_labels(alone, "alone"),
        small.from_answers(direct, "direct", "teacher"),
        *(
            link.from_answers(chain[number], f"assistant-{number}", chain[number - 1])
            for number, link in enumerate(middle, 1)
        ),
        small.from_answers(assisted, "assisted", chain[-1]),
    ]
    pairs = [Pair(assisted, direct), Pair(assisted, alone), Pair(direct, alone)]
    title = f"{config.dataset}, {'-'.join(map(str, config.chain))}, T={config.temperature:g}, alpha={config.alpha:g}"
    rows = {name: tested(name) for name in (*chain, alone, direct, assisted)}
    compare(study, workdir, arms, pairs, title=title, rows=rows)


if __name__ == "__main__":
    command.start(Config, main)
