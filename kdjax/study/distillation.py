"""A teacher and one student: the flags of `distill` and of every member of a sweep, and the plan that they make."""

from dataclasses import dataclass, replace

import jax

from kdjax.config import field
from kdjax.losses import combine, terms
from kdjax.models import create as models
from kdjax.study import lesson, networks, stages, views
from kdjax.study.data import Common, Study
from kdjax.study.schedules import SYNTAX
from kdjax.types import BadInput, Model

LAYER_LOSS = "feature.hint:1"


@dataclass(frozen=True)
class Flags(Common):
    """Flags of a teacher and one student."""

    workdir: str = field(
        "runs/distill", "folder for everything the run leaves", identity=False, smoke="runs/smoke/distill"
    )
    teacher: str = field(
        "", "workdir of a finished train_teacher run (other teacher_ flags are then unused); empty trains one per seed"
    )
    teacher_model: str = field("mlp", "teacher's network", choices=models.all_names())
    teacher_hidden: tuple[int, ...] = field((256, 256), "teacher's widths or channels", low=1, smoke=(16,))
    teacher_dropout: float = field(0.2, "teacher's dropout rate", low=0.0, high=0.99)
    teacher_norm: str = field("batch", "teacher's normalisation, where it has one", choices=models.NORMS)
    teacher_epochs: int = field(60, "teacher's passes", low=1, smoke=2)
    teacher_learning_rate: float = field(1e-3, "teacher's peak learning rate", low=0.0)
    teacher_outputs: str = field(
        "cached",
        "teacher's answers: computed once, or in every step (always where layers are compared or images augmented)",
        choices=("cached", "live"),
    )
    answers_dir: str = field(
        "", "folder that keeps cached answers for this run and others; empty: in memory only", identity=False
    )
    answers_top_k: int = field(
        0, "of cached answers, keep the k largest logits and the others' sum; 0 keeps all", low=0
    )
    student_model: str = field("mlp", "student's network", choices=models.all_names())
    student_hidden: tuple[int, ...] = field((20,), "student's widths or channels", low=1, smoke=(8,))
    student_dropout: float = field(0.0, "student's dropout rate", low=0.0, high=0.99)
    student_norm: str = field("batch", "student's normalisation, where it has one", choices=models.NORMS)
    standardize: bool = field(False, networks.STANDARDIZE)
    labels: int = field(60, "labelled images that students get, balanced over classes; 0 for all", low=0)
    epochs: int = field(100, "passes over the transfer set (all training images)", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    loss: str = field("response.kl", "distillation loss", choices=combine.names("response"))
    loss_args: str = field("", "the loss's own hyper-parameters, such as alpha=1,beta=2 for response.dkd")
    temperature: float = field(4.0, "softens both sides", low=1e-6, high=1e4)
    alpha: float = field(0.9, "weight of the teacher; 1 - alpha of the labels", low=0.0, high=1.0)


@dataclass(frozen=True)
class Config(Flags):
    """Flags of this experiment."""

    loss: str = field("response.kl", lesson.HELP)
    layers: str = field(
        "",
        "which of the teacher's layers teach the student's: every:2, offset:2, first, last, or pairs 1=2,2=4; then "
        f"stages by name, joined by +: every:2+embedding+logits. By {LAYER_LOSS} if --loss has none on features",
    )
    layer_weights: tuple[float, ...] = field((1.0,), "factors of the pairs of --layers, or one for all", low=0.0)
    schedules: str = field("", f"of weights and temperature: {SYNTAX}")
    hint_epochs: int = field(
        0,
        "epochs that compare layers alone, before those of answers alone (FitNets); of feature.ft's paraphraser",
        low=0,
    )
    augment: str = field("", f"{views.HELP}. The teacher sees what the student sees, in every step")
    copy_layers: bool = field(False, "start from the teacher's --layers where shapes agree")


def planned(
    config: Config, study: Study, student: Model, teacher: Model, steps: int, *, second: bool = False
) -> lesson.Plan:
    """What the student learns, as the flags say; refused here if it cannot be, or if a flag would do nothing."""
    found = terms.parse(config.loss)
    # A map that no loss takes is a wish of its own, unless it says what to copy.
    mapped = any(t.name.startswith("feature.") and not t.student for t in found)
    if config.layers and not (mapped or config.copy_layers):
        config = replace(config, loss=f"{config.loss},{LAYER_LOSS}")
    if not config.layers and config.layer_weights != Config.layer_weights:
        raise BadInput(f"--layer_weights={config.layer_weights}: there is no --layers; accepted: both, or none.")
    first = next((t for t in found if t.on_logits), None)
    if config.alpha != Flags.alpha and (first is None or first.weight is not None):
        raise BadInput(f"--alpha={config.alpha:g}: --loss={config.loss} says all weights; accepted: one or the other.")
    plan = lesson.plan(
        student,
        teacher,
        study.shape,
        steps=steps,
        second=second,
        examples=len(study.train),
        batch_size=config.batch_size,
        augment=views.from_flag(config.augment, study.shape).from_teacher,
        **{name: getattr(config, name) for name in ("loss", "alpha", "temperature", "loss_args", "layers")},
        **{name: getattr(config, name) for name in ("layer_weights", "schedules")},
    )
    left = stages.answers_alone(plan)
    weights = [left["alpha"], left.get("label_weight", 1 - left["alpha"])]
    if second and not any([*weights, *(value for name, value in left.items() if name.startswith("weight/"))]):
        raise BadInput(f"--hint_epochs={config.hint_epochs}: --loss={config.loss} leaves nothing for the second stage.")
    if plan.compares_layers and (config.answers_dir or config.answers_top_k):
        raise BadInput("--answers_dir and --answers_top_k keep answers, not layers; accepted: losses on answers alone.")
    if plan.augmented and (config.answers_dir or config.answers_top_k):
        raise BadInput(
            f"--augment={config.augment}: --answers_dir and --answers_top_k keep answers to images as they are stored; "
            "accepted: one or the other."
        )
    if plan.uses_labels:
        views.refuse_mixing(config.augment, why="labels have weight here")
    if config.hint_epochs:
        stages.hints_alone(plan)
    if config.copy_layers:
        stages.copies(plan, jax.eval_shape(lambda: dict(params=teacher.init(jax.random.key(0))[0])))
    return plan
