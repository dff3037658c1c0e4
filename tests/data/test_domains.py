"""Domains: what can be typed, how label spaces are numbered, and that images meet and change as they should."""

import numpy as np
import pytest

from kdjax.data import domains, transforms
from kdjax.data.embedded import digits
from kdjax.spec import Call
from kdjax.types import BadInput
from tests.data.helpers import prepare, prepared

SPLITS = {"train": "train[:30]", "test": "test[:20]"}


def unite(text, part="train", **options):
    return domains.unite(domains.parse(text), part, SPLITS[part], **options)


@pytest.fixture
def image():
    """Three pictures of which none is symmetrical."""
    return np.random.default_rng(0).random((3, 6, 6, 1), np.float32)


INDEX = np.array([4, 9, 2])


def test_a_domain_says_data_set_classes_transforms_and_splits():
    first, second = domains.parse(
        "dataset('a_set/config:1.2.3', invert, rotate(-30.5), classes=(7, 0, 1, 2), "
        "train='train[:80%]', test='train[80%:]') + kmnist"
    )
    assert first.dataset == "a_set/config:1.2.3"
    assert first.classes == (0, 1, 2, 7)
    assert first.transforms == (Call("invert"), Call("rotate", (-30.5,)))
    assert (first.split("train", "x"), first.split("test", "x")) == ("train[:80%]", "train[80%:]")
    assert first.name == "dataset('a_set/config:1.2.3', invert, rotate(-30.5), classes=(7, 0, 1, 2))"
    splits = domains.parse("a(train='b', test='c'), a(train='d', test='e'), b(train='b', test='c')")
    assert [d.name for d in splits] == [
        "a(test='c', train='b')", "a(test='e', train='d')", "b",
    ]  # fmt: skip
    assert (second.dataset, second.block, second.split("train", "x"), second.classes) == ("kmnist", 1, "x", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mnist(invrt)",
            r"domains, column 7: read the name invrt; accepted: blur_noise, invert, rotate; did you mean invert\?",
        ),
        ("mnist(rotate)", "column 7: read rotate without number; accepted: rotate takes number"),
        ("mnist(rotate(grid(1, 2)))", "column 7: .*accepted: one value"),
        ("mnist(rotate('45'))", "number='45' of rotate; accepted: a number"),
        ("mnist(invert(3))", "invert takes no arguments"),
        ("mnist('invert')", "column 1: read 'invert'; accepted: DATASET"),
        ("mnist(3)", "column 1: read 3; accepted: DATASET"),
        ("mnist(classes=range(3, 1))", r"classes=range\(3, 1\); accepted: numbers"),
        ("mnist(classes=range(0.5, 1))", "accepted: numbers"),
        ("mnist(classes=range)", "accepted: numbers"),
        ("mnist(classes=())", "accepted: numbers"),
        ("mnist(classes=3)", "classes=3; accepted: numbers"),
        ("mnist(classes=(1, True))", "accepted: numbers"),
        ("mnist(classes=(-1, 1))", "accepted: numbers"),
        ("usps, mnist(classes=(1, 1))", "column 7: .*a class more than once"),
        ("mnist(classses=(1, 2))", "did you mean classes"),
        ("mnist(", "domains, column 6"),
        ("mnist,,usps", "column 7: read ',usps'"),
        ("2*mnist", r"read 2\*mnist; accepted: DATASET"),
        ("mnist - usps", r"read -1\*usps; accepted: DATASET"),
        ("dataset(invert)", "without a name in quotes"),
        ("mnist(test='test')", "both train and test"),
        ("mnist(train=train, test=test)", "both train and test, each in quotes"),
        ("mnist(train='tr[', test='te')", r"column 1: split='tr\['"),
        ("mnist, usps, mnist", "column 14: read mnist more than once"),
        ("mnist + mnist(invert) + mnist", "column 25: read mnist more than once"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(text, message):
    with pytest.raises(BadInput, match=message):
        domains.parse(text)


def test_classes_are_numbered_block_by_block_and_shared_within_a_block():
    overlapping = domains.parse("mnist(classes=range(7)), mnist(classes=range(4, 10))")
    assert domains.union_maps(overlapping, (10, 10)) == ((tuple(range(7)), (4, 5, 6, 7, 8, 9)), 10)
    # Not by order of appearance or of text: 10 comes after 9.
    assert domains.union_maps(domains.parse("a(classes=(10, 11)), a(classes=(9, 10))"), (12, 12)) == (
        ((1, 2), (0, 1)),
        3,
    )
    disjoint = domains.parse("mnist+fashion_mnist+kmnist")
    maps, size = domains.union_maps(disjoint, (10, 10, 10))
    assert size == 30
    assert maps[2] == tuple(range(20, 30))


def test_classes_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match=r"these have \[10, 100\] \(a 10, b 100\); accepted: as many, or a plus"):
        domains.union_maps(domains.parse("a,b"), (10, 100))
    with pytest.raises(BadInput, match="class 12; accepted: 0 to 9"):
        domains.union_maps(domains.parse("mnist(classes=(12,)), usps"), (10, 10))


def test_a_union_holds_every_domain_once_with_its_labels_and_origin():
    plain = digits(SPLITS["train"])
    union = unite("digits, digits(invert) + digits(rotate(90))")
    source = union.source
    assert len(source) == 90
    assert source.num_classes == 20
    assert source.arrays["domain"].tolist() == [0] * 30 + [1] * 30 + [2] * 30
    assert source.labels().tolist() == [*plain.labels(), *plain.labels(), *(plain.labels() + 10)]
    image = source.arrays["inputs"]
    np.testing.assert_array_equal(image[:30], plain.arrays["inputs"])
    np.testing.assert_array_equal(image[30:60], 1 - plain.arrays["inputs"])
    # A positive angle is counter-clockwise, like numpy's rot90; spline weights differ from 1 in the last bits.
    np.testing.assert_allclose(image[60:], np.rot90(plain.arrays["inputs"], axes=(1, 2)), atol=1e-5)


def test_an_expert_learns_its_own_classes_from_nought():
    union = unite("digits(classes=range(0, 7)), digits(classes=range(4, 10))")
    own = domains.of_domain(union, 1)
    plain = digits(SPLITS["train"]).labels()
    assert own.num_classes == 6
    assert own.labels().tolist() == [y - 4 for y in plain if y >= 4]
    there = union.source.arrays["domain"] == 1
    assert union.source.labels()[there].tolist() == [y for y in plain if y >= 4]


def test_a_cap_draws_other_images_for_every_domain_and_the_same_ones_again():
    union, again = unite("digits, digits(invert)", most=10), unite("digits, digits(invert)", most=10)
    image = union.source.arrays["inputs"]
    assert len(image) == 20
    np.testing.assert_array_equal(image, again.source.arrays["inputs"])
    assert not np.array_equal(image[:10], 1 - image[10:])


def test_domains_of_other_sizes_channels_and_splits_meet(tmp_path, cache_dir):
    prepare(tmp_path, shape=(6, 5, 3))
    union = domains.unite(
        domains.parse("digits + tiny(train='test', test='train')"), "train", "train[:5]", data_dir=str(tmp_path)
    )
    assert union.source.arrays["inputs"].shape == (5 + 8, 8, 8, 3)
    assert union.source.num_classes == 14
    assert sorted(domains.of_domain(union, 1).labels()) == [0, 0, 1, 1, 2, 2, 3, 3]
    smaller = domains.unite(
        domains.parse("digits + tiny(train='test', test='train')"),
        "train",
        "train[:5]",
        data_dir=str(tmp_path),
        image_size=4,
    )
    assert smaller.source.image_shape() == (4, 4, 3)


def test_usps_and_mnist_meet_at_28_pixels():
    prepared("usps")
    prepared("mnist")
    union = domains.unite(domains.parse("mnist, usps"), "test", "test[:50]")
    assert union.source.arrays["inputs"].shape == (100, 28, 28, 1)
    # The mean grey of USPS is nearly what it was at 16 pixels, and is darker paper than MNIST's.
    ink = [union.source.arrays["inputs"][d * 50 : d * 50 + 50].mean() for d in (0, 1)]
    assert 0.1 < ink[0] < 0.16 < 0.2 < ink[1] < 0.35


def test_training_on_what_another_view_is_tested_on_is_refused():
    pair = domains.parse("digits, digits(invert, train='test', test='train')")
    with pytest.raises(BadInput, match=r"digits trains on train of digits and digits\(invert\) is tested on train"):
        domains.refuse_shared_examples(pair, "train", "test")
    apart = domains.parse("digits(train='train[:50%]', test='train[50%:]'), digits(invert)")
    domains.refuse_shared_examples(apart, "train[:50%]", "test")


def test_a_domain_without_examples_is_refused():
    with pytest.raises(BadInput, match=r"'digits\(classes=\(9,\)\)' has no examples"):
        domains.unite(domains.parse("digits(classes=(9,)), digits"), "train", "train[:1]")


@pytest.mark.parametrize("name", transforms.TRANSFORMS.names())
def test_every_transform_is_pure_stays_in_range_and_acts_on_each_image_alone(name, image):
    try:
        transform = transforms.resolve(name)
    except BadInput:
        transform = transforms.resolve(f"{name}(30)")
    before = image.copy()
    result = transform(image, INDEX)
    assert result.shape == image.shape
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 1
    assert not np.array_equal(result, image)
    np.testing.assert_array_equal(image, before)
    order = [2, 0, 1]
    np.testing.assert_array_equal(transform(image[order], INDEX[order]), result[order])


def test_transforms_undo_each_other_where_they_should(image):
    twice = transforms.invert(transforms.invert(image, INDEX), INDEX)
    np.testing.assert_allclose(twice, image, atol=1e-6)
    quarter = transforms.resolve("rotate(90)")
    back = quarter(quarter(quarter(quarter(image, INDEX), INDEX), INDEX), INDEX)
    np.testing.assert_allclose(back, image, atol=1e-5)
    np.testing.assert_allclose(quarter(image, INDEX), np.rot90(image, axes=(1, 2)), atol=1e-5)


def test_noise_has_the_spread_that_its_number_says_and_is_drawn_from_the_index():
    grey = np.full((40, 28, 28, 1), 0.5, np.float32)
    noisy = transforms.resolve("blur_noise(0.1)")(grey, np.arange(40))
    assert noisy.mean() == pytest.approx(0.5, abs=0.003)
    assert noisy.std() == pytest.approx(0.1, rel=0.03)
    assert not np.array_equal(noisy[0], noisy[1])
    # Without noise only the blur is left: an impulse spreads as a Gaussian of one pixel.
    impulse = np.zeros((1, 28, 28, 1), np.float32)
    impulse[0, 14, 14, 0] = 1
    blurred = transforms.blur_noise(impulse, np.array([0]), 0.0)[0, :, :, 0]
    assert blurred[14, 14] == pytest.approx(1 / (2 * np.pi), rel=0.02)
    assert blurred[14, 15] / blurred[14, 14] == pytest.approx(np.exp(-0.5), rel=1e-3)


def test_resizing_keeps_the_mean_and_the_place():
    step = np.zeros((1, 8, 8, 1), np.float32)
    step[:, :, 4:] = 1
    for size in (4, 16, 28):
        resized = transforms.resize(step, size)[0, :, :, 0]
        assert resized.mean() == pytest.approx(0.5, abs=1e-6)
        assert resized[:, 0].max() == 0
        assert resized[:, -1].min() == 1
    with pytest.raises(BadInput, match="size=0"):
        transforms.resize(step, 0)


def test_colours_that_cannot_be_made_are_refused():
    with pytest.raises(BadInput, match="channels=3 for images of 2"):
        transforms.recolour(np.zeros((1, 2, 2, 2), np.float32), 3)
