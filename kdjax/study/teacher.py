"""What a teacher says of the training images: in every step, once a run, or once for all runs that share a folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax.data import cache, npz, prepared, splits
from kdjax.data.load import load
from kdjax.data.source import Examples, Source
from kdjax.evaluation.answers import decided
from kdjax.files import typed_path
from kdjax.study import networks, service, train
from kdjax.study.data import Study
from kdjax.teachers import answers, top_k
from kdjax.teachers.live import Teacher, live
from kdjax.teachers.stored import cached, cached_top_k
from kdjax.training import parallel
from kdjax.types import BadInput, Model, PyTree

GUESSES = 1000
"""The most training images that tell whether a teacher guesses."""
MARGIN = 0.1
"""The most by which a guessing teacher may be right about more of them than by chance, so that they can tell."""


class Answered(NamedTuple):
    """What to train on, how a recipe finds the teacher's answers to it, and the step's frozen variables."""

    source: Any
    teacher: Teacher
    frozen: PyTree = None


def teacher_of_step(config: Any, teacher: Model, classes: int) -> Teacher:
    """How a recipe finds a teacher's answers, as the flags ask: the same for every seed."""
    if config.teacher_outputs == "live":
        return live(teacher.apply)
    return cached_top_k(classes) if config.answers_top_k else cached()


def answered(
    config: Any, study: Study, teacher: Model, weights: PyTree, source: Examples, workdir: Path, number: int
) -> Answered:
    """A data set with the teacher's answers, as --teacher_outputs, --answers_dir and --answers_top_k ask.

    Args:
        config: of an experiment with those flags.
        study: its training images are those of `source`, row for row.
        teacher: the network.
        weights: its variables.
        source: labels may differ from the study's.
        workdir: of the run, whose model.json describes the teacher unless --teacher names another.
        number: of the teacher among its kind; each has a folder of its own in --answers_dir.

    Raises:
        BadInput: what is stored is stale, damaged, or of other images.
    """
    asked = teacher_of_step(config, teacher, source.num_classes)
    if config.teacher_outputs == "live":
        return Answered(source, asked, weights)

    def compute(first: int) -> Iterator[Mapping[str, np.ndarray]]:
        for image, logits in train.predictions(study, teacher, weights, source, first=first):
            yield {"inputs": image, **columns(logits, config.answers_top_k)}

    if config.answers_dir:
        folder, key = Path(config.answers_dir) / f"seed-{number}", key_of(config, study, weights, workdir)
        found = answers.stored(folder, key, source, compute, index=places(config))
    else:
        found = columns(train.predict(study, teacher, weights, source), config.answers_top_k)
    for name, column in found.items():
        source = source.with_column(name, column)
    return Answered(source, asked)


def check(config: Any, study: Study, workdir: Path, given: list[PyTree]) -> None:
    """Refuse, before training, flags that do not fit and stored answers that are not those of the given teachers."""
    classes = study.train.num_classes
    if config.answers_top_k > classes:
        raise BadInput(f"--answers_top_k={config.answers_top_k}; accepted: 0 to {classes}, the number of classes.")
    if config.teacher_outputs == "live":
        if service.is_service(config.teacher):
            raise BadInput("--teacher_outputs=live: a service is not asked in every step; accepted: cached.")
        for name in ("answers_dir", "answers_top_k"):
            if getattr(config, name):
                raise BadInput(
                    f"--{name}={getattr(config, name)}: --teacher_outputs=live keeps no answers; accepted: cached."
                )
    if config.answers_dir:
        for number, weights in enumerate(given):
            answers.refuse_stale(Path(config.answers_dir) / f"seed-{number}", key_of(config, study, weights, workdir))


def refuse_guessing(study: Study, asked: Mapping[str, tuple[Model, Sequence[PyTree]]]) -> None:
    """Refuse a given teacher that guesses: its classes stand in another order, or it expects other pixels.

    Of n labelled training images it is right about no more than chance + 3 sqrt(chance (1 - chance) / n). Chance is the
    sum over classes of their share of the labels times that of its answers: what it would be right about if it answered
    as often, and knew no image. A teacher of ten even classes guesses up to 12.8 % of 1000, one of two up to 54.7 %.

    Where the root's part is above `MARGIN`, as with 80 images of ten even classes or 224 of two, there are too few to
    tell, and nothing is refused. Nor is anything of attacked images in a file, about which a right teacher errs.

    Args:
        study: whose training images it is asked about.
        asked: teachers by what was typed: the network, and its variables by seed; of one that is trained here there are
            none, and nothing is asked.

    Raises:
        BadInput: such a teacher.

    Reference:
        Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 1960: kappa is
        above 0 by less than three standard errors.
    """
    if npz.attacked(study.config.dataset):
        return
    # A set may be in the order of its classes.
    places = np.unique(np.linspace(0, len(study.train) - 1, GUESSES).astype(int))
    some = study.train.select(places)
    known = some.labels()
    by_seed = ((typed, model, *one) for typed, (model, given) in asked.items() for one in enumerate(given))
    for typed, model, number, weights in by_seed:
        answer = decided(train.predict(study, model, weights, some))
        label, answer = known[known >= 0], answer[known >= 0]
        right = float((label == answer).mean()) if len(label) else 1.0
        counts = [np.bincount(x, minlength=study.train.num_classes) / max(len(label), 1) for x in (label, answer)]
        chance = float(np.sum(counts[0] * counts[1]))
        above = 3 * (chance * (1 - chance) / max(len(label), 1)) ** 0.5
        if right < 1 and above <= MARGIN and right <= chance + above:
            raise BadInput(
                f"{typed}: seed {number} is right about {100 * right:.1f} % of {len(label)} "
                f"training images, and who guesses about {100 * chance:.1f} %; accepted: a teacher of the same "
                "classes in the same order, which normalises as it was trained."
            )


def columns(logits: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Logits as columns of a data set: all of them, or the k largest and the others' sum."""
    if not k:
        return {"teacher_logits": logits}
    values, classes, rest = map(np.asarray, top_k.shorten(jax.numpy.asarray(logits), k))
    return {"teacher_values": values, "teacher_classes": classes, "teacher_rest": rest}


def key_of(config: Any, study: Study, weights: PyTree, workdir: Path) -> dict[str, Any]:
    """All that decides the answers to one data set's images."""
    base, _ = splits.parse(config.train_split)
    settings: Any = jax.config
    described = typed_path(config.teacher) if networks.is_run(config.teacher) else workdir
    key = {
        "dataset": config.dataset,
        "split": base,
        "image_shape": study.train.image_shape(),
        "model": json.loads((described / "model.json").read_text()),
        "teacher": answers.checksum(weights),
        "view": "as stored, no augmentation",
        "top_k": config.answers_top_k,
        # Stated, a precision holds anywhere; unstated, it is the platform's: float32, TF32 or bfloat16.
        "precision": settings.jax_default_matmul_precision or f"default of {parallel.platform(study.mesh)}",
    }
    if not isinstance(study.train, Source):  # too large to compare image by image
        key["files"] = cache.fingerprint(prepared.find(config.dataset, config.data_dir).folder)
    return key


def places(config: Any) -> np.ndarray:
    """Where the training images are in the whole of their split, so that parts of it share answers."""
    base, cut = splits.parse(config.train_split)
    whole = load(config.dataset, base, data_dir=config.data_dir, image_size=config.image_size)
    return np.arange(len(whole))[cut(len(whole))]
