"""Pixels of every kind of image file: the value that was stored, or a refusal that says what is accepted."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kdjax.data.load import load
from kdjax.data.stream import MODES, decode
from kdjax.types import BadInput
from tests.data.helpers import pixels, prepare

SIZE = (4, 5)
RANDOM = np.random.default_rng(0)
GREY, RGB = (RANDOM.integers(0, 256, (*SIZE, n), np.uint8) for n in (1, 3))
ALPHA = RANDOM.integers(0, 256, (*SIZE, 1), np.uint8)
DEEP = {n: RANDOM.integers(0, 65536, (*SIZE, n), np.uint16) for n in (1, 2, 3, 4)}
PALETTE = RANDOM.integers(0, 256, (256, 3), np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R 601-2, as Pillow's grey."""


def saved(image, form="png", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def plain(array, form="png"):
    return saved(Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array), form)


def sixteen(array):
    """A PNG file of 16 bits a channel, written by its specification: Pillow writes grey alone."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = array.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def palette(**options):
    image = Image.fromarray(GREY[..., 0])
    image.putpalette(PALETTE.tobytes())
    return saved(image, **options)


def cmyk():
    """A TIFF file: its inks are the complement of the colours, with no black."""
    return saved(Image.fromarray(np.concatenate([255 - RGB, 0 * GREY], -1), "CMYK"), "tiff")


FILES = {
    "grey": (plain(GREY), GREY),
    "colour": (plain(RGB), RGB),
    "bits": (saved(Image.fromarray(GREY[..., 0] > 100)), 255 * (GREY > 100)),
    "grey with opacity": (plain(np.concatenate([GREY, ALPHA], -1)), GREY),
    "colour with opacity": (plain(np.concatenate([RGB, ALPHA], -1)), RGB),
    "palette": (palette(), PALETTE[GREY[..., 0]]),
    "palette, one colour transparent": (palette(transparency=3), PALETTE[GREY[..., 0]]),
    "palette, transparent by table": (palette(transparency=bytes(range(256))), PALETTE[GREY[..., 0]]),
    "inks": (cmyk(), RGB),
    "grey of 16 bits": (sixteen(DEEP[1]), DEEP[1] >> 8),
    "grey of 16 bits, big end first": (saved(Image.fromarray(DEEP[1][..., 0].astype(">u2")), "tiff"), DEEP[1] >> 8),
    "grey with opacity of 16 bits": (sixteen(DEEP[2]), DEEP[2][..., :1] >> 8),
    "colour of 16 bits": (sixteen(DEEP[3]), DEEP[3] >> 8),
    "colour with opacity of 16 bits": (sixteen(DEEP[4]), DEEP[4][..., :3] >> 8),
}
OPACITY = {
    "grey with opacity": ALPHA,
    "colour with opacity": ALPHA,
    "grey with opacity of 16 bits": DEEP[2][..., 1:] >> 8,
    "colour with opacity of 16 bits": DEEP[4][..., 3:] >> 8,
    "palette, one colour transparent": np.where(GREY == 3, 0, 255),
    "palette, transparent by table": GREY,
}


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_those_that_were_stored(kind):
    data, stored = FILES[kind]
    colour = np.broadcast_to(stored, (*SIZE, 3))
    np.testing.assert_array_equal(decode([data], (*SIZE, 3), "made")[0], colour)
    opacity = np.broadcast_to(OPACITY.get(kind, 255), (*SIZE, 1))
    np.testing.assert_array_equal(decode([data], (*SIZE, 4), "made")[0], np.concatenate([colour, opacity], -1))
    grey = stored if stored.shape[-1] == 1 else stored @ LUMA[:, None]
    np.testing.assert_allclose(decode([data], (*SIZE, 1), "made")[0], grey, atol=0.51)


@pytest.mark.parametrize("kind", FILES)
def test_resizing_is_that_of_the_stored_values(kind):
    # Each channel for itself: a colour does not fade where it is transparent.
    data, stored = FILES[kind]
    for channel, band in enumerate(np.moveaxis(np.broadcast_to(stored, (*SIZE, 3)).astype(np.uint8), -1, 0)):
        expected = np.asarray(Image.fromarray(band).resize((3, 7), Image.Resampling.BILINEAR))
        for channels in (3, 4):
            np.testing.assert_array_equal(decode([data], (7, 3, channels), "made")[0, ..., channel], expected)


def writable():
    """Every mode of Pillow that it can write, as `(mode, file)`."""
    for mode in sorted({*Image.MODES, "I;16B", "La", "LAB", "PA", "RGBX", "RGBa"}):
        for form in ("png", "tiff", "jpeg"):
            try:
                yield mode, saved(Image.new(mode, SIZE[::-1], 1), form)
            except (OSError, KeyError, ValueError):
                continue


@pytest.mark.parametrize(("mode", "data"), list(writable()))
def test_every_mode_is_read_or_refused_by_name(mode, data):
    for channels in MODES:
        if mode in ("I", "F", "LAB"):
            with pytest.raises(BadInput, match=rf"made: .*'image' has Pillow's mode '{mode}'.*accepted: 1, L, LA"):
                decode([data], (*SIZE, channels), "made")
        else:
            assert decode([data], (*SIZE, channels), "made").shape == (1, *SIZE, channels)


@pytest.mark.parametrize("data", [b"", b"junk", plain(RGB)[:60]])
def test_a_file_that_is_no_image_is_refused(data):
    with pytest.raises(BadInput, match="made: an image of feature 'image' cannot be read"):
        decode([data], (*SIZE, 3), "made")


def test_a_picture_is_not_turned_as_its_camera_was():
    turned = Image.Exif()
    turned[0x0112] = 6  # by 90 degrees, which exchanges the sides
    np.testing.assert_array_equal(decode([saved(Image.fromarray(RGB), exif=turned)], (*SIZE, 3), "made")[0], RGB)


def test_more_pixels_than_are_safe_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(BadInput, match=r"made: an image of feature 'image' cannot be read \(Image size \(20 pixels\)"):
        decode([plain(RGB)], (*SIZE, 3), "made")


def test_a_set_of_deep_images_in_memory_and_in_a_stream(tmp_path, cache_dir, monkeypatch):
    monkeypatch.setattr("tests.data.helpers.png", lambda image: io.BytesIO(sixteen(DEEP[1])))
    prepare(tmp_path, shape=(*SIZE, 1))
    for memory_gb in (4.0, 0.0):
        source = load("tiny", "train", data_dir=str(tmp_path), memory_gb=memory_gb)
        np.testing.assert_array_equal(source[np.arange(2)]["inputs"], [DEEP[1] >> 8] * 2)


def test_four_channels_are_taken(tmp_path, cache_dir):
    prepare(tmp_path, shape=(*SIZE, 4))
    written = sorted(pixels(index, (*SIZE, 4)).tobytes() for index in range(20))
    for memory_gb in (4.0, 0.0):
        source = load("tiny", "train", data_dir=str(tmp_path), memory_gb=memory_gb)
        assert source.image_shape() == (*SIZE, 4)
        assert sorted(image.tobytes() for image in source[np.arange(20)]["inputs"]) == written


def test_other_features_are_refused_with_what_is_accepted(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(num_classes=4)
    for name, image, words in (
        ("two", tfds.features.Image(shape=(*SIZE, 2)), r"'image' has 2 channels; accepted: 1 .*, 3 .* or 4"),
        ("deep", tfds.features.Image(shape=(*SIZE, 1), dtype=np.uint16), "'image' is of uint16; accepted: uint8"),
        ("tensor", tfds.features.Tensor(shape=(*SIZE, 1), dtype=np.uint16), r"image \(Tensor\).*accepted: image \(Im"),
    ):
        folder = tmp_path / name
        array = DEEP[1] if name == "tensor" else None
        monkeypatch.setattr("tests.data.helpers.png", lambda x, a=array: io.BytesIO(plain(GREY)) if a is None else a)
        prepare(folder, features={"image": image, "label": label})
        with pytest.raises(BadInput, match=f"dataset='tiny'.*{words}"):
            load("tiny", "train", data_dir=str(folder))


def test_float_images_are_refused(tmp_path):
    """TFDS writes those with TensorFlow alone, so the description of a set of bytes is made to say it."""
    prepare(tmp_path)
    (file,) = tmp_path.rglob("features.json")
    file.write_text(file.read_text().replace('"uint8"', '"float32"'))
    with pytest.raises(BadInput, match="'image' is of float32; accepted: uint8"):
        load("tiny", "train", data_dir=str(tmp_path))
