"""The rows of a transfer: who is fooled by images made on whom, success against queries, and the audit's verdict."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.transfer.attacks import Curve, Plan, by_caps, called, joined, share, within_radius
from kdjax.audit.comparisons import transfer_is_weaker
from kdjax.study.attacks import Named
from kdjax.study.compare import Done, Row, Scores
from kdjax.study.extraction import Extractor, Victim


def transfers(config: Any, plan: Plan) -> dict[str, Row]:
    """A row for each attack, radius and pair of a victim and whom its images are made on, itself among them."""
    rows = {}
    for victim in plan.victims:
        target = victim.model, victim.name
        makers = {"itself": target}
        makers |= {name: (thief.model, arms[-1].name) for name, (thief, arms) in plan.surrogates(victim).items()}
        for maker, network in makers.items():
            for one in plan.made:
                for epsilon in config.epsilons:

                    def of(done: Done, network=network, one=one, epsilon=epsilon, target=target) -> Scores:
                        found = plan.attacks.judged(done, target, network, one, epsilon)
                        return {"transfer": found.conditional, "misclassified": found.unconditional}

                    rows[called(one, epsilon, maker, victim.name)] = Row(tuple({network[1], victim.name}), of)
    return rows


def curves(config: Any, plan: Plan) -> dict[str, Row]:
    """A row for each line of the figures: success against queries, of the first victim and the defended ones."""
    rows = {}
    for victim in plan.victims:
        if victim is not plan.victims[0] and not victim.name.endswith("adversarially trained"):
            continue
        lines = {f"{one.call.name}": [o for o in plan.queried if o.call.name == one.call.name] for one in plan.queried}
        for name, several in lines.items():
            rows[f"{name} on {victim.name}"] = Row((victim.name,), asking(config, plan, victim, several))
        (thief, arms), *_ = plan.surrogates(victim).values()
        names = tuple(arm.name for arm in arms)
        for one in plan.begun:
            label = f"{one.call.name} from the surrogate on {victim.name}"
            rows[label] = Row((victim.name, names[-1]), asking(config, plan, victim, [one], thief, names[-1]))
        rows[f"surrogate on {victim.name}"] = Row((victim.name, *names), bought(config, plan, victim, thief, names))
    return rows


def asking(
    config: Any, plan: Plan, victim: Victim, several: list[Named], thief: Extractor | None = None, start: str = ""
) -> Callable[[Done], Curve]:
    """The line of an attack that asks, perhaps from the images of a surrogate."""
    target, most, epsilon = (victim.model, victim.name), config.query_examples, config.query_epsilon

    def of(done: Done) -> Curve:
        right = plan.attacks.right(done, *target)[:most]
        begun, paid = None, 0
        if thief is not None:
            begun = plan.attacks.made_on(done, thief.model, start, plan.made[-1], epsilon)
            paid = config.budgets[-1]
        found = []
        for one in several:
            told = plan.attacks.asks(done, target, one, epsilon, most, begun)
            capped = one.has("epsilon")
            found.append(
                by_caps(told, right, paid=paid) if capped else within_radius(told, right, epsilon, config.norm)
            )
        return joined(found)

    return of


def bought(
    config: Any, plan: Plan, victim: Victim, thief: Extractor, names: tuple[str, ...]
) -> Callable[[Done], Curve]:
    """The line of a surrogate: transfer at every budget, with one look at each image."""
    target, most = (victim.model, victim.name), config.query_examples

    def of(done: Done) -> Curve:
        right, points = plan.attacks.right(done, *target)[:most], Curve(queries=[], success=[])
        for name, budget in zip(names, config.budgets, strict=True):
            found = plan.attacks.judged(done, target, (thief.model, name), plan.made[-1], config.query_epsilon)
            points["queries"].append(float(budget + right.sum()))
            points["success"].append(share(found.fooled[:most][right]))
        return points

    return of


def audits(config: Any, plan: Plan) -> dict[str, Row]:
    """Is the white box weaker than the transfer from the victim's own surrogates?"""
    rows = {}
    for victim in plan.victims:
        target, own = (victim.model, victim.name), plan.surrogates(victim)
        makers = [(thief.model, arms[-1].name) for thief, arms in own.values()]

        def of(done: Done, target=target, makers=makers) -> Scores:
            one, epsilon = plan.made[-1], config.query_epsilon
            white, *black = (plan.attacks.judged(done, target, maker, one, epsilon) for maker in (target, *makers))
            stands = [j.right & ~j.fooled for j in black]
            found = transfer_is_weaker(
                white.right & ~white.fooled, np.logical_and.reduce(stands), twin="the network's own surrogates"
            )
            return {**found.numbers, "verdict": found.verdict, "text": found.text}

        rows[f"audit of {victim.name}"] = Row((victim.name, *(name for _, name in makers)), of)
    return rows
