"""Experts of domains and those who follow them: gates, what they say together, scores, and the claims."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import softmax

from kdjax.data.domains import Domain
from kdjax.data.source import Source, hide_labels
from kdjax.ensembles import gates, pools, unify
from kdjax.ensembles.label_spaces import LabelSpaces, components, embed_all, refuse_unlinked
from kdjax.evaluation.answers import decided
from kdjax.evaluation.classification import classification
from kdjax.evaluation.paired import paired_difference
from kdjax.study import report
from kdjax.study.compare import Pair, Results, Scores, subtracted
from kdjax.types import BadInput, nearest

GATES: dict[str, Callable[..., jax.Array]] = {
    "oracle": gates.oracle,
    "entropy": gates.entropy,
    "confidence": gates.max_probability,
    "learned": gates.given,
    "none": gates.uniform,
}
"""Who is asked about an example: the expert of its domain, the surest, the one that a domain classifier names, or
everyone alike."""

ORACLE, BIG, FEW, ALL = (
    "student, oracle gate",
    "student of the big teacher",
    "student on labels",
    "student on all labels",
)
TEACHER, TELLS = "big teacher", "domain classifier"


def called(gate: str) -> str:
    """A gate's name in tables: oracle gate, no gate."""
    return "no gate" if gate == "none" else f"{gate} gate"


class ExpertAnswers(NamedTuple):
    """What experts, and the domain classifier where there is one, say of the examples of a source."""

    source: Source
    answers: Sequence[np.ndarray]
    domain_logits: np.ndarray | None


def chosen(text: str, spaces: LabelSpaces) -> tuple[list[str], str]:
    """The gates of a flag, and a line about one left out; empty is all that apply.

    Raises:
        BadInput: an unknown gate; `none` asked for where nothing links the experts.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in GATES:
            raise BadInput(f"--gates={text}: {name!r}; accepted: {', '.join(GATES)}{nearest(name, GATES)}")
    try:
        if "none" in names or not names:
            refuse_unlinked(spaces)
    except BadInput as refusal:
        if names:
            raise BadInput(f"--gates={text}: no gate is not possible here. {refusal}") from None
        left_out = "No gate was left out: no class links the experts, so their answers alone do not say how probable "
        return [name for name in GATES if name != "none"], left_out + "one label space is against another."
    return names or list(GATES), ""


Pooled = Callable[[ExpertAnswers], tuple[np.ndarray, np.ndarray | None]]
"""One answer over the union, logits `[N, U]`, and who was asked, weights `[N, T]`, None where nobody chose."""


def together(gate: str, spaces: LabelSpaces, *, scales: Mapping[str, float], temperature: float) -> Pooled:
    """What experts say together behind a gate; compiled once for all seeds that it is asked about.

    softmax(·/T) is Σ_t w_t softmax(v_t/T). Without a gate it is the mean where all experts know the same classes, and
    otherwise what `unify.cross_entropy` makes of them; the mean is what that would make of equal classes.
    """
    if gate == "none" and not spaces.mask.all():
        solve = jax.jit(lambda v: unify.cross_entropy(v, spaces, temperature=temperature).logits)

        def unified(experts: ExpertAnswers) -> tuple[np.ndarray, None]:
            parts = range(0, len(experts.source), 5000)
            return np.concatenate([np.asarray(solve([v[i : i + 5000] for v in experts.answers])) for i in parts]), None

        return unified

    own = {"scale": scales[gate]} if gate in scales else {}

    @jax.jit
    def weighed(said: list[jax.Array], domain: jax.Array) -> tuple[jax.Array, jax.Array]:
        answers = embed_all(said, spaces)
        share = GATES[gate](answers, domain=domain, **own)
        return pools.mean_probability(answers, share, temperature=temperature), share

    def pooled(experts: ExpertAnswers) -> tuple[np.ndarray, np.ndarray | None]:
        domain = experts.source.arrays["domain"]
        if gate == "learned":
            assert experts.domain_logits is not None
            domain = softmax(experts.domain_logits, axis=-1)
        logits, share = weighed(list(experts.answers), domain)
        return np.asarray(logits), None if gate == "none" else np.asarray(share)

    return pooled


def transfer_set(source: Source, images: int, seed: int) -> Source:
    """What students see: so many images of every domain, drawn by the seed; 0, or more than there are, is all."""
    domain, rng = source.arrays["domain"], np.random.default_rng(seed)
    parts = [rng.permutation(np.flatnonzero(domain == d)) for d in range(domain.max() + 1)]
    return source.select(np.concatenate([np.sort(part[: images or None]) for part in parts]))


def scarce(source: Source, keep: int, seed: int) -> Source:
    """A union with `keep` labels left in every domain, balanced over its classes; 0 leaves all."""
    if not keep:
        return source
    domain = source.arrays["domain"]
    labels = np.full_like(source.labels(), -1)
    for d in range(domain.max() + 1):
        there = np.flatnonzero(domain == d)
        labels[there] = hide_labels(source.select(there), keep, 1000 * d + seed).labels()
    return source.with_column("label", labels)


def groups(spaces: LabelSpaces) -> list[np.ndarray]:
    """The union's classes by who knows them: one group where all experts know all, one per label space otherwise."""
    patterns, which = np.unique(spaces.mask.T, axis=0, return_inverse=True)
    found = [np.flatnonzero(which.ravel() == p) for p in range(len(patterns))]
    return sorted(found, key=lambda classes: classes[0])


def score(logits: np.ndarray, test: Source, domains: Sequence[Domain], spaces: LabelSpaces) -> Scores:
    """Accuracy on the union (every example counts once), on each domain, and with the label space given; confusion.

    `mean`: over domains. `space given`: the best of the classes that the domain's expert knows. `blocks[i][j]`: the
    share of group i's examples whose answer is in group j.
    """
    labels, domain = test.labels(), test.arrays["domain"]
    right = decided(logits) == labels
    by_domain = {d.name: float(right[domain == i].mean()) for i, d in enumerate(domains)}
    given = np.where(spaces.mask[domain], logits, -np.inf).argmax(-1) == labels
    group = np.empty(spaces.union, int)
    for i, classes in enumerate(found := groups(spaces)):
        group[classes] = i
    counts = np.zeros((len(found), len(found)))
    np.add.at(counts, (group[labels], group[logits.argmax(-1)]), 1)
    whole = classification(logits, labels)
    return {
        "union": float(right.mean()),
        "mean": float(np.mean(list(by_domain.values()))),
        "domains": by_domain,
        "space given": float(given.mean()),
        "nll": whole["nll"],
        "ece": whole["ece"],
        "blocks": (counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist(),
    }


def gate_accuracy(share: np.ndarray, test: Source, domains: Sequence[Domain], spaces: LabelSpaces) -> float:
    """How often the expert that counts most is the right one: of the example's domain, or of the same images and its
    class."""
    labels, domain = test.labels(), test.arrays["domain"]
    same = np.array([[a.view == b.view for b in domains] for a in domains])
    right = same[domain] & spaces.mask.T[labels]
    return float(right[np.arange(len(labels)), decided(share, "the weights of experts")].mean())


def pairs(roles: Sequence[str]) -> list[Pair]:
    """The oracle student against each rival, on the union."""
    rivals = [role for role in roles if role != ORACLE and not role.startswith("ensemble")]
    return [Pair(ORACLE, role, "union") for role in rivals]


def differences(results: Results, domains: Sequence[Domain]) -> dict[str, dict[str, float]]:
    """The oracle student minus each rival, on the union, over the same seeds; and minus the experts at home."""
    mine = results[ORACLE]
    found = {pair.name: d for pair, d in subtracted(results, pairs(list(results))).items()}
    home = [at_home(results, domains, seed) for seed in range(len(mine))]
    found[f"{ORACLE} minus mean expert at home"] = paired_difference([s["mean"] for s in mine], home)
    return found


def at_home(results: Results, domains: Sequence[Domain], seed: int) -> float:
    """The mean over experts of each one's accuracy on its own domain."""
    return float(np.mean([results[f"expert of {d.name}"][seed]["domains"][d.name] for d in domains]))


def claims(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What was claimed of the oracle student, and whether its intervals say so."""
    lows = {
        f"beats the same {role} of the same images": (found[f"{ORACLE} minus {role}"]["low"], 0.0)
        for role in (FEW, ALL)
        if f"{ORACLE} minus {role}" in found
    }
    worst = min(d["low"] for name, d in found.items() if " minus expert of " in name)
    lows["beats every single expert on the union"] = worst, 0.0
    home = found[f"{ORACLE} minus mean expert at home"]["low"]
    lows["is within 1 point of the mean expert at home, without being told the domain"] = home, -0.01
    return [
        f"The oracle student {claim}: {'held' if low > bound else 'not held'} "
        f"(lowest end of an interval {100 * low:+.2f} points, needed above {100 * bound:+.0f})."
        for claim, (low, bound) in lows.items()
    ]


def table(results: Results, domains: Sequence[Domain], spaces: LabelSpaces) -> str:
    """A row per role; the column of the given label space only where there are several."""
    several = ["space given %"] if len(components(spaces)) > 1 else []
    rows = {}
    for role, scores in results.items():
        # An expert that does not know some of the classes has no NLL, and says nothing of another space.
        knows = scores[0]["nll"] < 1e3
        rows[role] = [
            {
                "union %": 100 * s["union"],
                **{f"{name} %": 100 * a for name, a in s["domains"].items()},
                **({"space given %": 100 * s["space given"], "nll": s["nll"]} if knows else {}),
                **({"gate %": 100 * s["gate"]} if "gate" in s else {}),
            }
            for s in scores
        ]
    return report.table(rows, ["union %", *(f"{d.name} %" for d in domains), *several, "gate %", "nll"])
