"""A teacher and one student: the flags of `distill` and of every member of a sweep, and the plan that they make."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kdjax import spec
from kdjax.config import field
from kdjax.methods import METHODS, Method, method
from kdjax.recipes.comparisons import BY_LABELS, names
from kdjax.recipes.lesson import Lesson, lesson
from kdjax.recipes.terms import TEACHER
from kdjax.study import networks, service, stages, views
from kdjax.study.data import Common, Study
from kdjax.types import CLEAN, BadInput, Model

NAMES = ", ".join(METHODS.names())
LOSSES = ", ".join([*names(), *BY_LABELS.names()])


@dataclass(frozen=True)
class Flags(Common):
    """Flags of a teacher and one student."""

    workdir: str = field(
        "runs/distill", "folder for everything the run leaves", identity=False, smoke="runs/smoke/distill"
    )
    teacher: str = field(
        "mlp(256, 256, dropout=0.2)",
        "workdir of a finished train_teacher run (other teacher_ flags are then unused); or, trained here for each "
        f"seed, {networks.NETWORK}; or {service.HELP}",
        smoke="mlp(16, dropout=0.2)",
        identity=service.identity,
    )
    teacher_epochs: int = field(60, "teacher's passes", low=1, smoke=2)
    teacher_learning_rate: float = field(1e-3, "teacher's peak learning rate", low=0.0)
    teacher_outputs: str = field(
        "cached",
        "teacher's answers: computed once, or in every step (always where layers are compared, images augmented, or "
        "attacked ones asked about)",
        choices=("cached", "live"),
    )
    answers_dir: str = field(
        "", "folder that keeps cached answers for this run and others; empty: in memory only", identity=False
    )
    answers_top_k: int = field(
        0, "of cached answers, keep the k largest logits and the others' sum; 0 keeps all", low=0
    )
    student: str = field("mlp(20)", networks.NETWORK, smoke="mlp(8)")
    standardize: bool = field(False, networks.STANDARDIZE)
    labels: int = field(60, "labelled images that students get, balanced over classes; 0 for all", low=0)
    epochs: int = field(100, "passes over the transfer set (all training images)", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    method: str = field(
        "kd",
        f"a paper's method, with numbers of your own if need be, kd(temperature=2), or a sum, adaad + igdm: {NAMES}",
    )
    loss: str = field(
        "",
        "instead of --method, what is learned as a sum of weighted losses, such as "
        f"'0.9*response.kl(temperature=4) + 0.1*labels + 100*feature.hint(block2)': labels, {LOSSES}. "
        "Behind a comma, the attack that makes the images called attacked: "
        "'response.kl(student=attacked), pgd(0.1, objective=labels(student=attacked))'",
    )
    augment: str = field("", f"{views.HELP}. The teacher sees what the student sees, in every step")


@dataclass(frozen=True)
class Config(Flags):
    """Flags of this experiment."""

    hint_epochs: int = field(
        0,
        "epochs that compare layers alone, before those of answers alone; 0: the share that --method has, if any",
        low=0,
    )
    copy_layers: str = field("", "start from the teacher's layers where shapes agree, by a layer map such as every(2)")


def taught_by(config: Flags) -> Method:
    """What the flags say is learned.

    Raises:
        BadInput: both flags, or a text that is none.
    """
    says_method = config.method != type(config).method
    says_loss = config.loss not in ("", type(config).loss)
    if says_method and says_loss:
        raise BadInput(f"--method={config.method} and --loss={config.loss}; accepted: one or the other.")
    if says_method or not config.loss:
        return method(config.method)
    typed = spec.parse(config.loss, flag="loss")
    if isinstance(typed, tuple) and len(typed) == 2 and isinstance(typed[1], spec.Call):
        return Method(spec.formula(typed[0], flag="loss"), attack=typed[1])
    return Method(spec.formula(config.loss, flag="loss"))


def planned(
    config: Flags,
    study: Study,
    student: Model,
    teacher: Model,
    steps: int,
    *,
    second: bool = False,
    others: Mapping[str, Model] = MappingProxyType({}),
    chosen: Method | None = None,
) -> Lesson:
    """What the student learns, as the flags say, or `chosen`; refused if it cannot be, or if a flag does nothing."""
    chosen = chosen or taught_by(config)
    if missing := [name for name in dict(chosen.others) if name not in others]:
        raise BadInput(
            f"--method={config.method}: no teacher called {missing[0]}; accepted: its workdir in quotes, "
            f"NAME({missing[0]}='runs/{missing[0]}')."
        )
    plan = lesson(
        chosen.expression,
        student,
        teacher,
        steps=steps,
        taught=second,
        examples=len(study.train),
        batch_size=config.batch_size,
        augment=views.from_flag(config.augment, study.shape).from_teacher,
        attacked=chosen.attack,
        others=others,
    )
    if second and not plan.weighs(*stages.AFTER_LAYERS):
        raise BadInput(
            f"--loss={chosen.expression}: nothing is left for the second stage; accepted: answers or labels."
        )
    kept = f"--answers_dir={config.answers_dir}" if config.answers_dir else f"--answers_top_k={config.answers_top_k}"
    stores = bool(config.answers_dir or config.answers_top_k)
    for asked, who in (
        (stores, f"{kept} keeps answers"),
        (service.is_service(config.teacher), f"--teacher={config.teacher}: a service answers"),
    ):
        if asked and plan.live:
            raise BadInput(
                f"{who} to images as they are stored, and with {chosen.expression} {_why_live(plan)}; "
                "accepted: losses on answers to clean images alone, without --augment."
            )
    if stores and not plan.asks:
        raise BadInput(f"{kept}: {chosen.expression} asks no teacher; accepted: a loss that does, or no such flag.")
    if plan.uses_labels:
        views.refuse_mixing(config.augment, why="labels have weight here")
    return plan


def _why_live(plan: Lesson) -> str:
    """Why the teacher must run in every step."""
    if plan.compares_layers:
        return "layers are compared"
    if plan.augmented:
        return "images are augmented"
    return f"the teacher is asked about {' and '.join(sorted(plan.asks[TEACHER] - {CLEAN}))} images"


def hint_epochs(config: Config) -> int:
    """The length of a first stage, in epochs."""
    return config.hint_epochs or round(taught_by(config).first * config.epochs)
