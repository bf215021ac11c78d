"""The two-stage method on a small random CLIP; the words are features of chosen patches."""

import dataclasses
import functools
import zlib

import jax
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.core.weights import blueprint
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.dino import Dino
from opvseg_jax.methods.zeroshot.model import ZeroShot, ZeroShotOptions
from opvseg_jax.text.features import TextFeatures, pad
from opvseg_jax.vocabulary import Vocabulary

VISION = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 48,
    "embed_dim": 16,
}
DINO = {
    "image_size": 28,
    "patch_size": 7,
    "width": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 32,
}
BASE = ZeroShotOptions(num_slots=3, crop_size=32, stride=4, min_area=0.0)
WORDS = Vocabulary.of("dog: head, leg, tail; sky; car: wheel, door")


def build(options: ZeroShotOptions, has_dino: bool = False) -> ZeroShot:
    dino = Dino(**DINO, rngs=nnx.Rngs(1)) if has_dino else None
    return ZeroShot(ClipVision(**VISION, rngs=nnx.Rngs(0)), options, dino=dino)


@functools.cache
def weights_of(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, np.ndarray]:
    """Random numbers for every leaf, the same for a path in whatever company it is."""
    weights = {}
    for path, shape in shapes:
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        spread = rng.normal(0, (shape[0] if shape else 1) ** -0.5, shape)
        weights[path] = np.float32(1 + 0.1 * spread if path.endswith("scale") else spread)
    return weights | {"logit_scale": np.float32(np.log(30.0))}


@functools.cache
def compiled(options: ZeroShotOptions = BASE, has_dino: bool = False, call: str = "__call__"):
    """(images, text, valid) -> Outputs, or another method of the model."""
    plan = blueprint(lambda: build(options, has_dino))
    weights = weights_of(tuple((path, x.shape) for path, x in plan.shapes.items()))
    run = jax.jit(
        lambda weights, *inputs: getattr(plan.merge(weights), call)(*inputs),
        compiler_options={"xla_backend_optimization_level": 0},  # compiles twice as fast
    )
    return functools.partial(run, weights)


@pytest.fixture(scope="module")
def images():
    """Two images of blocks, each block of its own colour and grain."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(0, 255, (2, 3, 4, 3)).repeat(16, axis=1).repeat(16, axis=2)
    noise = rng.normal(0, 40, colours.shape)
    return np.clip(colours + noise, 0, 255).astype(np.float32)  # [2, 48, 64, 3]


@pytest.fixture(scope="module")
def patches(images):
    """What CLIP sees in the images, and in the image enlarged for parts: [n, E], unit norm."""
    found = dense(images)
    return found.reshape(2, -1, found.shape[-1])


def dense(images: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """The patches of CLIP itself: [B, n, m, E], unit norm, read off cosines with unit vectors."""
    axes = np.eye(VISION["embed_dim"], dtype=np.float32)[:, None]
    options = dataclasses.replace(BASE, alphas=(alpha,))
    return np.asarray(compiled(options, call="_similarity")(images / 255, axes))


@pytest.fixture(scope="module")
def text(patches):
    return features(WORDS, patches[0])


def features(words: Vocabulary, rows: np.ndarray) -> TextFeatures:
    """Words that fit patches which lie apart: one template each."""
    count = len(words.objects) + len(words.parts) + 2
    chosen = rows[np.linspace(0, len(rows) - 1, count).astype(int)][:, None]
    objects, parts, background = np.split(chosen, [len(words.objects), count - 2])
    return made(words, objects, parts, background)


def made(words: Vocabulary, objects, parts=None, background=None, phrases=None) -> TextFeatures:
    generic = np.zeros((len(words.generic_parts), 1, VISION["embed_dim"]), np.float32)
    return TextFeatures.of(words, objects, parts, generic, background=background, phrases=phrases)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_probabilities_add_up(images, text):
    out = compiled()(images, text)
    assert out.objects.shape == (2, 12, 16, 4)
    assert out.parts.shape == (2, 12, 16, 6)
    assert_close(out.objects.sum(axis=-1), 1)
    assert_close(out.parts.sum(axis=-1), 1)
    labels = np.asarray(out.objects.argmax(axis=-1))
    assert {0, 2} <= set(labels[0].ravel())  # the test would prove little without objects


def test_a_pixel_has_parts_of_its_own_object_alone(images, text):
    out = compiled()(images, text)
    labels = np.asarray(out.objects.argmax(axis=-1))
    parts = np.asarray(out.parts)
    owners = np.append(WORDS.part_to_object, -2)
    for label in range(4):
        here = parts[labels == label]
        assert (here[:, (owners != label) & (owners != -2)] == 0).all()
    assert_close(parts[np.isin(labels, [1, 3])][:, -1], 1)  # the sky has none, nor has nothing
    assert (parts[np.isin(labels, [0, 2])][:, -1] < 1e-6).all()


def test_padding_changes_nothing(images, text):
    expected = compiled()(images, text)
    grown = pad(text, objects=8, parts=16, most_parts=8, background=4)
    found = compiled()(images, grown)
    assert_close(found.objects[..., :3], expected.objects[..., :3])
    assert_close(found.objects[..., -1], expected.objects[..., -1])
    assert_close(found.parts[..., :5], expected.parts[..., :5])
    assert_close(found.parts[..., -1], expected.parts[..., -1])
    assert not np.any(found.objects[..., 3:-1])
    assert not np.any(found.parts[..., 5:-1])


def test_empty_slots_change_nothing(images, text):
    expected = compiled()(images, text)
    found = compiled(dataclasses.replace(BASE, num_slots=7))(images, text)
    assert_close(found.parts, expected.parts)


def test_images_of_a_batch_do_not_meet(images, text):
    expected = compiled()(images, text)
    found = compiled()(images[::-1], text)
    assert_close(found.objects[::-1], expected.objects)
    assert_close(found.parts[::-1], expected.parts)


def test_the_order_of_words_does_not_matter(images, text):
    expected = compiled()(images, text)
    objects, parts = np.array([2, 0, 1]), np.array([4, 3, 2, 0, 1])
    words = Vocabulary(
        objects=tuple(WORDS.objects[i] for i in objects),
        parts=tuple(
            WORDS.parts[i]._replace(object=list(objects).index(WORDS.parts[i].object))
            for i in parts
        ),
    )
    turned = made(words, text.objects[objects], text.parts[parts], text.background[::-1])
    found = compiled()(images, turned)
    assert_close(found.objects, expected.objects[..., np.append(objects, -1)])
    assert_close(found.parts, expected.parts[..., np.append(parts, -1)])


def test_the_largest_objects_get_parts_when_slots_run_out(images, text):
    every = compiled()(images, text)
    one = compiled(dataclasses.replace(BASE, num_slots=1))(images, text)
    assert np.isfinite(one.parts).all()
    for labels, all_parts, parts in zip(
        every.objects.argmax(-1), every.parts, one.parts, strict=True
    ):
        areas = np.bincount(np.asarray(labels).ravel(), minlength=4)[[0, 2]]
        largest, other = (0, 2) if areas[0] >= areas[1] else (2, 0)
        assert_close(parts[labels == largest], all_parts[labels == largest])
        assert_close(parts[labels == other][:, -1], 1)


def test_nothing_found(images, text):
    out = compiled()(images, text, np.zeros(images.shape[:3], bool))
    assert (out.objects.argmax(axis=-1) == 3).all()
    assert np.isfinite(out.parts).all()
    assert_close(out.parts[..., -1], 1)


def test_where_there_is_no_image_there_is_nothing(images, text):
    valid = np.zeros(images.shape[:3], bool)
    valid[:, :32, :40] = True
    out = compiled()(images, text, valid)
    assert (np.asarray(out.objects[:, 8:].argmax(axis=-1)) == 3).all()
    assert (np.asarray(out.objects[:, :, 10:].argmax(axis=-1)) == 3).all()
    assert_close(out.objects[:, :8, :10], compiled()(images, text).objects[:, :8, :10])
    assert_close(out.parts[:, 8:, :, -1], 1)


def test_words_without_parts_skip_the_second_stage(images, text):
    words = Vocabulary.of("dog; sky; car")
    found = compiled()(images, TextFeatures.of(words, text.objects, background=text.background))
    assert found.parts is None
    assert_close(found.objects, compiled()(images, text).objects)


def test_the_best_phrase_speaks_for_its_object(images, text, patches):
    """Two phrases win where either would; a phrase that fits nowhere changes nothing."""
    other = patches[0][[5]][:, None]
    words = Vocabulary(objects=("dog", "sky"), phrases=(("dog", "puppy"), ("sky",)))
    phrases = np.concatenate([text.objects[:1], other, text.objects[1:2]])
    three = made(words, text.objects[:2], background=text.background, phrases=phrases)
    apart = made(Vocabulary.of("dog; puppy; sky"), phrases, background=text.background)
    both = compiled()(images, three).objects
    expected = np.asarray(compiled()(images, apart).objects.argmax(axis=-1))
    agrees = np.asarray(both.argmax(axis=-1)) == np.array([0, 0, 1, 2])[expected]
    assert agrees.mean() > 0.9  # not everywhere: the best is taken before resizing
    grown = compiled()(images, pad(three, objects=4, phrases=8)).objects
    assert_close(grown[..., :2], both[..., :2])


def test_the_rest_of_an_object_is_no_part(images, text):
    """The object's own name takes a share of every pixel and leaves the parts' odds as they are."""
    padded = pad(text, most_parts=8)
    found = compiled(dataclasses.replace(BASE, rest=0.0))(images, padded).parts
    expected = compiled()(images, text)
    has_parts = np.isin(expected.objects.argmax(axis=-1), [0, 2])
    shares, odds = np.asarray(found)[has_parts], np.asarray(expected.parts)[has_parts]
    assert shares[:, -1].max() > 0.5 > shares[:, -1].min()
    assert_close(shares[:, :-1], odds[:, :-1] * (1 - shares[:, -1:]))
    assert_close(found[~has_parts], expected.parts[~has_parts])


def test_windows_see_a_large_image_piece_by_piece(images, text):
    """Where windows do not overlap, a patch hears of its own window alone."""
    large = np.tile(images, (1, 2, 2, 1))  # [2, 96, 128, 3]
    out = compiled(dataclasses.replace(BASE, windows=2))(large, text)
    alone = compiled()(images, text)
    assert out.objects.shape == (2, 24, 32, 4)
    corner = np.asarray(out.objects)[:, :4, :4]
    assert_close(corner, np.asarray(alone.objects)[:, :4, :4])


def test_alpha_zero_is_plain_attention(images):
    plan = blueprint(lambda: build(BASE))
    weights = weights_of(tuple((path, x.shape) for path, x in plan.shapes.items()))
    pixels = (images / 255 - np.array(BASE.clip_mean)) / np.array(BASE.clip_std)
    run = jax.jit(lambda weights, x: plan.merge(weights).vision.dense(x, last="plain")[1])
    plain = np.asarray(run(weights, pixels.astype(np.float32)))
    plain = plain / np.linalg.norm(plain, axis=-1, keepdims=True)
    assert_close(dense(images, alpha=0.0), plain)
    assert np.abs(dense(images) - plain).max() > 0.01


def test_dino_brings_patches_that_look_alike_together(images, text):
    plain, smooth = compiled()(images, text), compiled(BASE, True)(images, text)
    assert np.isfinite(smooth.objects).all()
    assert_close(smooth.objects.sum(axis=-1), 1)
    assert np.std(smooth.objects, axis=(1, 2)).mean() < np.std(plain.objects, axis=(1, 2)).mean()


def test_a_canvas_that_windows_do_not_tile_is_refused(images, text):
    with pytest.raises(ValueError, match="not made of 5 windows"):
        compiled(dataclasses.replace(BASE, windows=5))(images, text)
