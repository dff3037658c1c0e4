"""FAB's step against linear programs, and AutoAttack's cascade: who is asked, about which class, judged by whom."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from kdjax.attacks import autoattack, objectives, victims
from kdjax.attacks.adaptive import boundary_step, onto_plane
from kdjax.attacks.combine import aimed, each_target, within
from kdjax.attacks.run import run
from kdjax.types import Adversarial, BadInput, Outputs


def shortest(x, w, value):
    """The least linf length of a d with value + <w, d> = 0 and x + d in [0, 1], by a linear program, or None."""
    size = len(x)
    side = np.hstack([np.eye(size), -np.ones((size, 1))])
    other = np.hstack([-np.eye(size), -np.ones((size, 1))])
    bounds = [(-low, 1 - low) for low in x] + [(0, None)]
    found = linprog(
        [*np.zeros(size), 1], np.vstack([side, other]), np.zeros(2 * size), [[*w, 0]], [-value], bounds, method="highs"
    )
    return found.x[-1] if found.success else None


def ways(x, w, value):
    """The d that moves every number by that length, as far as the box lets it; to a corner where no length will do."""
    least = shortest(x, w, value)
    toward = -np.sign(value) * np.sign(w)
    room = np.where(toward > 0, 1 - x, x)
    return toward * np.minimum(room.max() if least is None else least, room)


def cases(count=40, size=7):
    """Points, some with numbers at a bound; slopes, some with zeros; values that can and cannot be undone."""
    random = np.random.default_rng(0)
    x = np.where(random.uniform(size=(count, size)) < 0.3, random.integers(0, 2, (count, size)), 0)
    x = np.where(random.uniform(size=(count, size)) < 0.6, random.uniform(size=(count, size)), x)
    w = random.normal(size=(count, size)) * (random.uniform(size=(count, size)) < 0.8)
    return x, w, random.normal(size=count) * np.where(np.arange(count) % 5, 1, 20)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_way_onto_the_plane_is_the_linear_programs(scale):
    x, w, value = cases()
    w, value = scale * w, scale * value
    w[0], value[1] = 0, 0
    found = np.asarray(jax.jit(onto_plane)(*(jnp.asarray(a, jnp.float32) for a in (x, w, value))))
    least = [shortest(*row) for row in zip(x, w / scale, value / scale, strict=True)]
    assert 5 < sum(t is None for t in least) < 20
    for number, t in enumerate(least):
        if number > 0:
            np.testing.assert_allclose(
                found[number], ways(x[number], w[number] / scale, value[number] / scale), atol=1e-5
            )
        if t is not None:
            np.testing.assert_allclose(value[number] + found[number] @ w[number], 0, atol=1e-5 * scale)
    np.testing.assert_array_equal(found[:2], 0)
    assert (x + found).min() > -1e-6
    assert (x + found).max() < 1 + 1e-6


def linear(weight):
    """Z = x W."""

    def apply(variables, image, *, train, key):
        return Outputs(image.reshape(len(image), -1) @ variables), {}

    return victims.white_box(apply, jnp.asarray(weight, jnp.float32))


@pytest.fixture(scope="module")
def plane():
    """A linear classifier of four classes, images, and the classes that it sees in them."""
    random = np.random.default_rng(1)
    weight = random.normal(size=(9, 4)) - 0.3
    image = random.uniform(size=(12, 3, 3, 1)).astype(np.float32)
    return weight, image, (image.reshape(12, 9) @ weight).argmax(-1)


def test_a_step_is_the_papers(plane):
    """From points that fool and points that do not, in float64 and with the linear program's projections."""
    weight, image, label = plane
    random = np.random.default_rng(2)
    point = np.clip(image + random.uniform(-0.6, 0.6, image.shape), 0, 1).astype(np.float32)
    other = (label + 1) % 4
    goal = objectives.gap(linear(weight), jnp.asarray(label), toward=jnp.asarray(other))
    keys, where = jax.random.split(jax.random.key(0), 12), jnp.ones(12, bool)
    seen = jax.jit(boundary_step())(goal, keys, jnp.asarray(point), jnp.asarray(image), where=where)
    fools = (point.reshape(12, 9) @ weight).argmax(-1) != label
    assert 2 < fools.sum() < 10
    np.testing.assert_array_equal(seen.success, fools)
    for i in range(12):
        x0, x, w = (
            image[i].ravel().astype(float),
            point[i].ravel().astype(float),
            weight[:, label[i]] - weight[:, other[i]],
        )
        if fools[i]:
            x = x0 + 0.9 * (x - x0)
        d, d0 = ways(x, w, x @ w), ways(x0, w, x0 @ w)
        size, size0 = (max(np.abs(v).max(), 1e-8) for v in (d, d0))
        alpha = min(size / (size + size0), 0.1)
        wanted = np.clip((1 - alpha) * (x + 1.05 * d) + alpha * (x0 + 1.05 * d0), 0, 1)
        np.testing.assert_allclose(point[i].ravel() - np.asarray(seen.grad[i]).ravel(), wanted, atol=1e-5)


def test_fab_finds_the_nearest_image_across_planes(plane):
    weight, image, label = plane
    found = run(autoattack.fab(steps=8, targets=3), linear(weight), image, label, objective=objectives.margin)
    for i, y in enumerate(label):
        x = image[i].ravel().astype(float)
        gaps = [weight[:, y] - weight[:, k] for k in range(4) if k != y]
        reachable = [t for w in gaps if (t := shortest(x, w, x @ w)) is not None]
        assert found.success[i] == bool(reachable)
        if reachable:
            assert 1 - 1e-4 <= found.distance["linf"][i] / min(reachable) <= 1.06
    assert found.success.sum() > 6
    # Clean logits, three times eight steps of two queries and a check, the last judgement.
    assert set(found.queries) == {1 + 3 * (8 * 2 + 1) + 1}


def spy(calls, takes=()):
    """An attack that takes the images of some places, and notes whom it was asked for, and about which classes."""

    def attack(objective, key, image, start=None, *, where=None):
        calls.append((np.asarray(where).tolist(), np.asarray(objective.data.get("toward", ())).tolist(), objective))
        taken = where & jnp.isin(jnp.arange(len(image)), jnp.asarray(takes, int))
        first = jnp.where(taken, 1, -1)
        moved = jnp.where(taken.reshape(-1, 1, 1, 1), 1 - image, image)
        return Adversarial(moved, jnp.where(taken, -1.0, 1.0), taken, where.astype(int), first)

    return attack


def test_targets_are_the_likeliest_classes_in_turn_for_images_nobody_took():
    weight = np.eye(4)[:, [0, 1, 2, 3]]
    image = np.float32([[0.9, 0.2, 0.4, 0.1], [0.1, 0.2, 0.3, 0.8]]).reshape(2, 2, 2, 1)
    label, calls = jnp.array([0, 3]), []
    goal = objectives.margin(linear(weight), label)
    keys = jax.random.split(jax.random.key(0), 2)
    found = each_target(spy(calls, takes=[0]), objectives.gap, 2)(goal, keys, jnp.asarray(image))
    assert [where for where, *_ in calls] == [[True, True], [False, True]]
    assert [toward for _, toward, _ in calls] == [[2, 2], [1, 1]]
    assert found.queries.tolist() == [1 + 1 + 1, 1 + 2 + 1]
    assert found.first_success.tolist() == [2, -1]
    np.testing.assert_allclose(found.value, [0, 0.8 - 0.3], atol=1e-6)  # the margin, and not the gap


def test_who_goes_on_to_whom(plane):
    """Each of the four has its own objective and meets those whom no attack before it took, none of them the errors."""
    weight, image, label = plane
    wrong = np.array([(label[0] + 1) % 4, *label[1:]])
    plain = autoattack.standard(0.1, steps=2, targets=1, queries=2)
    calls, members = [[] for _ in plain.members[1:]], [plain.members[0]]
    for number, member in enumerate(plain.members[1:]):
        inner = spy(calls[number], takes=[number + 1])
        nested = [dataclasses.replace(member.members[0], members=(inner,))] if number == 2 else [inner]
        members.append(dataclasses.replace(member, members=tuple(nested)))
    cascade = dataclasses.replace(plain, members=tuple(members))
    goal = objectives.margin(linear(weight), jnp.asarray(wrong))
    cascade(goal, jax.random.split(jax.random.key(0), 12), jnp.asarray(image))
    scores = [call[0][2].score for call in calls]
    assert scores == [objectives._cross_entropy, objectives._dlr, objectives._gap, objectives._margin]
    assert [len(call[0][1]) for call in calls] == [0, 12, 12, 0]
    left = np.arange(12) > 0
    for number, call in enumerate(calls):
        np.testing.assert_array_equal(call[0][0], left)
        taken = run(aimed(spy([], takes=[number + 1]), objectives.margin), linear(weight), image, label,
                    objective=objectives.margin, on_device=False).success  # fmt: skip
        left = left & ~taken


def test_an_image_beyond_the_ball_counts_as_none(plane):
    _, image, label = plane
    goal = objectives.margin(linear(plane[0]), jnp.asarray(label))
    keys = jax.random.split(jax.random.key(0), 12)
    far = np.abs(1 - 2 * image).max((1, 2, 3))
    found = within(spy([], takes=range(12)), 0.9)(goal, keys, jnp.asarray(image), where=jnp.ones(12, bool))
    assert 0 < (far <= 0.9).sum() < 12
    np.testing.assert_array_equal(found.success, far <= 0.9)
    np.testing.assert_array_equal(found.first_success > 0, found.success)
    lost = ~np.asarray(found.success)
    np.testing.assert_array_equal(found.image[lost], image[lost])
    np.testing.assert_allclose(found.value[lost], goal(jnp.asarray(image))[0][lost], rtol=1e-5)
    np.testing.assert_array_equal(found.queries, 1 + lost)


def test_it_wants_any_wrong_class_of_a_white_box(plane):
    weight, image, label = plane
    targeted = {"target": (label + 1) % 4}
    for attack in (autoattack.standard(0.1, steps=2, queries=2), autoattack.fab(steps=2)):
        with pytest.raises(BadInput, match="is untargeted; accepted: an untargeted objective"):
            run(attack, linear(weight), image, label, objective=objectives.margin, **targeted)
    black, three = victims.queries_only(linear(weight)), linear(weight[:, :3])
    with pytest.raises(BadInput, match="FAB needs the gradients of a white-box victim"):
        run(autoattack.fab(steps=2), black, image, label, objective=objectives.margin)
    with pytest.raises(BadInput, match="dlr: 3 classes; accepted: 4 or more"):
        run(autoattack.standard(0.1, steps=2, queries=2), three, image, label % 3, objective=objectives.margin)
