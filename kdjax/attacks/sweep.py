"""One attack at many radii, compiled once."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._form import on_cpu
from kdjax.attacks._settings import Number, Radius, require_radius
from kdjax.attacks.combine import Combined
from kdjax.attacks.iterate import Iterated
from kdjax.types import Adversarial, Attack, Objective

STAGES = ("begin", "step", "finish", "whole")


def at_radius(make: Callable[[Radius], Attack], *, on_device: bool | None = None) -> Callable[[Number], Attack]:
    """An attack as a function of its radius, which becomes an argument of its programs: all radii share them.

    The programs are the attack's stages, stepped from Python, or the whole attack at once. Mapping a whole attack over
    radii (`jax.lax.map`, `jax.vmap`) compiles once as well, but on a CPU a loop around convolutions costs 5 times its
    steps called from Python: PGD-20 on 128 images and the network `fast_cnn` took 1.21 s of CPU as one program, as
    much under `map`, 1.14 s under `vmap`, and 0.24 s in steps.

    Args:
        make: `epsilon -> Attack`, such as `named.fgsm`.
        on_device: compile each attack whole; by default everywhere but on a CPU.

    Returns:
        `epsilon -> Attack`. Hand its attacks to `run(..., on_device=False)`, which compiles nothing again.

    >>> from kdjax.attacks import named
    >>> attack_at = at_radius(named.pgd)
    >>> attacks = [attack_at(epsilon) for epsilon in (0.1, 0.2, 0.3)]
    """
    device = not on_cpu() if on_device is None else on_device

    def stage(name: str) -> Callable[..., Any]:
        return jax.jit(lambda epsilon, *arguments: getattr(make(epsilon), name)(*arguments))

    stages = {name: stage(name) for name in STAGES}
    members: list[Callable[[Number], Attack]] = []

    @jax.jit
    def undivided(
        epsilon: Array, objective: Objective, key: Array, image: Array, start: Array | None, where: Array | None
    ) -> Adversarial:
        return make(epsilon)(objective, key, image, start, where=where)

    def at(epsilon: Number) -> Attack:
        require_radius("epsilon", epsilon)
        radius, plain = jnp.asarray(epsilon, jnp.float32), make(epsilon)
        if isinstance(plain, Iterated):
            shared = {name: partial(program, radius) for name, program in stages.items()}
            return dataclasses.replace(plain, on_device=plain.on_device or device, **shared)
        if isinstance(plain, Combined):
            for place in range(len(members), len(plain.members)):
                members.append(at_radius(partial(_member, make, place), on_device=on_device))
            return dataclasses.replace(plain, members=tuple(member(epsilon) for member in members))

        def attack(
            objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
        ) -> Adversarial:
            return undivided(radius, objective, key, image, start, where)

        return attack

    return at


def _member(make: Callable[[Radius], Any], place: int, epsilon: Radius) -> Attack:
    return make(epsilon).members[place]
