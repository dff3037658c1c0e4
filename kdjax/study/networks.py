"""Networks from flags, and those that a run left: written where they train, read where they teach or are attacked."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from kdjax import spec
from kdjax.data.moments import channel_moments
from kdjax.data.source import Examples
from kdjax.files import to_json, typed_path, write_whole
from kdjax.models.create import accepts, all_names, create
from kdjax.study import service
from kdjax.study.data import Study, overlap
from kdjax.training.checkpoint import Checkpointer
from kdjax.types import BadInput, Model, PyTree, nearest


class Network(NamedTuple):
    """A trained network: the model, its variables seed by seed, what it was built with and what it learned from.

    `learned` is the config of the run that trained it, and `lineage` what its results.json says of the network.
    """

    model: Model
    weights: list[PyTree]
    description: dict[str, Any]
    learned: dict[str, Any]
    lineage: Mapping[str, Any] = MappingProxyType({})


STANDARDIZE = "normalise images inside the networks, by the training split's mean and deviation of each channel"


class Described(NamedTuple):
    """A network that is not trained yet, and what `create` builds it of: what model.json holds."""

    model: Model
    description: dict[str, Any]


NETWORK = (
    "a network, such as 'mlp(256, 256, dropout=0.2)', widths or channels first where it takes any, with dropout, "
    "input_dropout and norm where it has them; names: " + ", ".join(all_names())
)
"""The manual of a flag that names a network."""

_SETTINGS = ("dropout", "input_dropout", "norm")


def is_run(text: str) -> bool:
    """Whether a text names a folder, and so a network that a run left there."""
    try:
        return typed_path(text).is_dir()
    except BadInput:  # a network may be written with more letters than a name may have
        return False


def named(text: str, shape: Mapping[str, Any], *, flag: str, train: Examples | None = None) -> Described:
    """The network that an expression names, found before training to accept the images.

    Args:
        text: such as `mlp(256, 256, dropout=0.2)` or `resnet20(norm=group)`.
        shape: classes and image shape.
        flag: what messages call it.
        train: the training images, if they are to be normalised inside the network by their mean and deviation.

    Raises:
        BadInput: no network, a setting that it does not take, or images that it does not accept.
    """
    call = spec.call(text, flag=flag)
    if call.name not in all_names():
        near = nearest(call.name, all_names())
        raise call.error(f"read the name {call.name}; accepted: {', '.join(all_names())}{near}")
    taken, description = accepts(call.name), {"name": call.name, **shape}
    for argument, value in ((("hidden", call.args),) if call.args else ()) + call.kwargs:
        if argument not in (("hidden", *_SETTINGS) if value is call.args else _SETTINGS):
            near = nearest(argument, _SETTINGS)
            raise call.error(f"read {argument}={value!r}; accepted: {', '.join(_SETTINGS)}{near}")
        if argument not in taken:
            typed = ", ".join(map(str, value)) if argument == "hidden" else f"{argument}={value!r}"
            what = "widths" if argument == "hidden" else argument
            others = ", ".join(n for n in all_names() if argument in accepts(n))
            raise call.error(f"read {typed}: {call.name} takes no {what}; accepted: {what} for {others}")
        description[argument] = _setting(call, argument, value)
    if train is not None:
        description["mean"], description["std"] = channel_moments(train)
    try:
        model = create(**description)
    except BadInput as error:
        raise call.error(str(error)) from None
    try:
        jax.eval_shape(model.init, jax.random.key(0))
    except BadInput as error:
        raise BadInput(f"--{flag}={text}: {error}.") from None
    return Described(model, description)


def _setting(call: spec.Call, argument: str, value: Any) -> Any:
    """A setting of a network as `create` takes it."""
    whole = lambda x: isinstance(x, int) and not isinstance(x, bool)  # noqa: E731
    if argument == "hidden" and all(map(whole, value)):
        return value
    if argument == "norm" and isinstance(value, str | spec.Call):
        return value if isinstance(value, str) else str(value)
    if "dropout" in argument and (whole(value) or isinstance(value, float)):
        return float(value)
    wanted = {"hidden": "whole numbers, such as mlp(256, 256)", "norm": "a name, such as norm=group"}
    raise call.error(f"read {argument}={value!r}; accepted: {wanted.get(argument, 'a rate from 0, below 1')}")


def teacher_of(config: Any, study: Study, *, flag: str = "teacher") -> tuple[Model, list[PyTree], dict[str, Any]]:
    """The teacher that `--teacher` names: a folder's, with its variables seed by seed, or one that is not trained yet.

    It may be a service, too, whose ledger lies in `--answers_dir`, or else in `--workdir`.

    Args:
        config: of an experiment with that flag.
        study: whose images it must accept.
        flag: its name, where it is another one.

    Returns:
        The model, its variables, none if it is to be trained, and what model.json says, if it is no folder's.

    Raises:
        BadInput: as `load_teachers`, `named` and `service.connect`; a text that is neither a folder nor a network.
    """
    text = getattr(config, flag)
    if service.is_service(text):
        folder = typed_path(getattr(config, "answers_dir", "") or config.workdir)
        found = service.connect(text, folder, flag=flag)
        described = service.description(found)
        refuse_other_shapes(described, text, study.shape, config.dataset, flag=flag)
        return *service.teacher(found, study), described
    if is_run(text):
        return *load_teachers(study, text, flag=flag), {}
    moments = study.train if getattr(config, "standardize", False) else None
    try:
        model, description = named(text, study.shape, flag=flag, train=moments)
    except BadInput as error:
        message = str(error)
        raise (error if message.startswith("--") else BadInput(f"--{flag}={text}: no folder, and {message}")) from None
    return model, [], description


def from_flags(
    config: Any, shape: Mapping[str, Any], role: str = "", *, hidden: str = "", train: Examples | None = None
) -> Described:
    """The network that `--model` names, or `--ROLE_model`, found before training to accept the images.

    It is given what it takes of `--hidden`, `--dropout`, `--input_dropout` and `--norm`, or `--ROLE_hidden` and so on,
    as far as there are such flags, and with `--standardize` the channels' mean and standard deviation. A network of
    published widths leaves a width or rate alone that has its default.

    Args:
        config: of an experiment with such flags.
        shape: classes and image shape.
        role: what the flags' names begin with, such as student.
        hidden: the flag of the widths, where it is called otherwise.
        train: the training images, for their mean and standard deviation; needed where there is `--standardize`.

    Raises:
        BadInput: a flag that was changed and that the network does not take, or images that it does not accept.
    """
    prefix = f"{role}_" if role else ""
    name = getattr(config, f"{prefix}model")
    taken, flags = accepts(name), {f.name: f for f in dataclasses.fields(config)}
    description = {"name": name, **shape}
    for argument in ("hidden", "dropout", "input_dropout", "norm"):
        flag = hidden if argument == "hidden" and hidden else prefix + argument
        if flag not in flags:
            continue
        value = getattr(config, flag)
        if argument in taken:
            description[argument] = value
        elif value and value not in (flags[flag].default, flags[flag].metadata["smoke"]):
            typed = ",".join(map(str, value)) if isinstance(value, tuple) else value
            others = ", ".join(n for n in all_names() if argument in accepts(n))
            raise BadInput(f"--{flag}={typed}: {name} takes no {argument}; accepted: {flag} for {others}.")
    if getattr(config, "standardize", False):
        assert train is not None
        description["mean"], description["std"] = channel_moments(train)
    model = create(**description)
    try:
        jax.eval_shape(model.init, jax.random.key(0))
    except BadInput as error:
        raise BadInput(f"--{prefix}model={name}: {error}.") from None
    return Described(model, description)


def title(description: Mapping[str, Any]) -> str:
    """What figures call a network.

    >>> title({"name": "mlp", "hidden": (20, 10)}), title({"name": "resnet20"})
    ('mlp 20-10', 'resnet20')
    """
    return " ".join(filter(None, (description["name"], "-".join(map(str, description.get("hidden", ()))))))


def save_model(workdir: Path, *, role: str = "", **description: Any) -> None:
    """Write what `create` needs to build a network again: model.json for every role that has no model-ROLE.json.

    The roles are the folders in checkpoints/. A role's own file leaves model.json as it is, which is part of the key
    of the teacher's stored answers.
    """
    name = f"model-{role}.json" if role else "model.json"
    write_whole(workdir / name, to_json(description, name, indent=2) + "\n")


def load_network(
    path: str, *, flag: str, role: str = "teacher", shape: Mapping[str, Any] | None = None, dataset: str = ""
) -> Network:
    """A network by the folder of the run that trained it.

    Args:
        path: the run's --workdir.
        flag: the flag that named it, for messages.
        role: whose checkpoints; each seed's last one is read.
        shape: what it must fit, classes and image shape of `dataset`, looked at before any checkpoint is read.
        dataset: its name, for messages.

    Raises:
        BadInput: no such run, an unfinished or damaged one, one without this role, or one for other classes or images.
    """
    try:
        folder = typed_path(path)
    except BadInput as error:
        raise BadInput(f"--{flag}: {error}") from None
    seeds = Counter(f.parent.name for f in folder.glob("checkpoints/*/seed-*"))
    roles = [name for name in seeds if _described(folder, name).exists()]
    if roles and role not in roles:
        raise BadInput(f"--{flag}={path}: no role {role!r} there; accepted are {', '.join(sorted(roles))}.")
    file = _described(folder, role)
    try:
        description: dict[str, Any] = json.loads(file.read_text())
        learned = json.loads((folder / "config.json").read_text())
        results = json.loads((folder / "results.json").read_text())  # the last file that a run writes
        if not {"name", "num_classes", "image_shape"} <= description.keys():
            raise ValueError
        description = {name: tuple(x) if isinstance(x, list) else x for name, x in description.items()}
        if not roles:
            raise FileNotFoundError
    except (OSError, ValueError, KeyError):
        accepted = "accepted is the --workdir of a finished experiments.train_teacher run, or of another such"
        raise BadInput(
            f"--{flag}={path}: {file.name}, config.json, results.json or checkpoints is missing or damaged; {accepted}."
        ) from None
    refuse_other_shapes(description, path, shape or {}, dataset, flag=flag)
    model = create(**description)
    like = jax.eval_shape(model.init, jax.random.key(0))
    weights = []
    for seed in range(seeds[role]):
        with Checkpointer(folder / "checkpoints" / role / f"seed-{seed}", read_only=True) as checkpointer:
            try:
                weights.append(checkpointer.restore_variables(*like))
            except BadInput as error:
                raise BadInput(f"--{flag}={path}: role {role!r}, described by {file.name}: {error}") from None
    lineage = next((arm for arm in results.get("arms", {}).values() if arm["run"] == role), {})
    return Network(model, weights, description, learned, lineage)


def _described(folder: Path, role: str) -> Path:
    own = folder / f"model-{role}.json"
    return own if own.exists() else folder / "model.json"


def further(others: Iterable[tuple[str, str]], study: Study) -> tuple[dict[str, Model], dict[str, list[PyTree]]]:
    """Further teachers that a method names: their networks, and their variables seed by seed, by name.

    Args:
        others: their names, each with the folder of its run.
        study: whose images they must accept.

    Raises:
        BadInput: as `load_teachers`.
    """
    found = {}
    for name, path in others:
        try:
            if path:
                found[name] = load_teachers(study, path, flag=name)
        except BadInput as error:
            # No flag names it, but a setting of a method.
            raise BadInput(str(error).removeprefix("--")) from None
    return {name: model for name, (model, _) in found.items()}, {name: own for name, (_, own) in found.items()}


def refuse_other_shapes(
    description: Mapping[str, Any], path: str, study_shape: Mapping[str, Any], dataset: str, *, flag: str
) -> None:
    """Refuse a network for other classes or images than a data set's."""
    for name, mine in study_shape.items():
        theirs = description[name]
        if theirs != mine:
            raise BadInput(
                f"--{flag}={path}: the {flag} has {name} {theirs}, the data set {dataset!r} has {mine}; "
                f"accepted is a {flag} of the same."
            )


def load_teachers(study: Study, path: str, *, flag: str = "teacher") -> tuple[Model, list[PyTree]]:
    """A network trained by `experiments.train_teacher`: the model, and its variables seed by seed.

    Raises:
        BadInput: as `load_network`; one for other classes or images than this study's, or one that learned from this
            study's test images.
    """
    network = load_network(path, flag=flag, shape=study.shape, dataset=study.config.dataset)
    test, learned = study.config.test_split, network.learned
    if learned["dataset"] == study.config.dataset and overlap(study.config, learned["train_split"], test):
        raise BadInput(
            f"--{flag}={path}: it learned from {learned['train_split']}, which shares examples with "
            f"--test_split={test}; accepted is a teacher that has not seen them."
        )
    return network.model, network.weights
