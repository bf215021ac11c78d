"""Targets: which class every pixel teaches, by each method's rules for ignored and background."""

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE
from opvseg_jax.pipeline.targets import (
    boxes,
    look_up,
    one_hot,
    part_targets,
    slot_labels,
    slot_masks,
    with_rest,
    with_seen_only,
)
from opvseg_jax.pipeline.transforms import SeenOnly
from opvseg_jax.vocabulary import Vocabulary

# Ids in file order; sorted: "ant", "dog" have parts, "cup" has none.
WORDS = Vocabulary.of(
    {
        "objects": ["dog", "cup", "ant"],
        "parts": {"dog": ["tail", "head"], "ant": ["head"]},
        "seen_objects": [True, True, False],
        "seen_parts": [True, True, False],
    }
)
OBJECTS = np.array([[[0, 0, 1, 2, BACKGROUND, IGNORE]]], np.int32)
PARTS = np.array([[[0, BACKGROUND, BACKGROUND, 2, BACKGROUND, IGNORE]]], np.int32)


def test_ignored_and_background_pixels_have_no_class():
    target = jax.jit(one_hot, static_argnums=1)(OBJECTS, 3)
    np.testing.assert_array_equal(target[0, 0, :4], np.eye(3)[[0, 0, 1, 2]])
    assert not target[0, 0, 4:].any()


def test_the_rest_may_be_a_class_of_its_own():
    assert with_rest(OBJECTS, 3).tolist() == [[[0, 0, 1, 2, 3, 3]]]


def test_part_models_sort_objects_and_count_the_others_as_background():
    targets = jax.jit(lambda o, p: part_targets(o, p, WORDS))(OBJECTS, PARTS)
    assert targets.objects.tolist() == [[[1, 1, -1, 0, BACKGROUND, IGNORE]]]
    assert targets.is_background.tolist() == [[[False, False, True, False, True, True]]]
    assert targets.is_part.tolist() == [[[True, False, False, True, False, False]]]
    assert targets.generic.tolist() == [[[1, -1, -1, 0, -1, IGNORE]]]  # sorted: head, tail


def test_unseen_objects_are_trained_as_background():
    seen = WORDS.seen_only()
    objects = with_seen_only(OBJECTS, WORDS.seen_object_mask)
    parts = with_seen_only(PARTS, WORDS.seen_part_mask)
    assert objects.tolist() == [[[0, 0, 1, BACKGROUND, BACKGROUND, IGNORE]]]
    targets = part_targets(objects, parts, seen)
    assert targets.is_background.tolist() == [[[False, False, True, True, True, True]]]
    ignored = with_seen_only(OBJECTS, WORDS.seen_object_mask, IGNORE)
    assert ignored[0, 0, 3] == IGNORE


def test_host_and_device_agree_on_what_is_seen():
    table = SeenOnly(WORDS).tables["object_map"]
    np.testing.assert_array_equal(table[OBJECTS], with_seen_only(OBJECTS, WORDS.seen_object_mask))


def test_a_vocabulary_without_parts_has_no_part_targets():
    bare = Vocabulary.of(["dog", "cup"])
    targets = part_targets(OBJECTS, np.full_like(PARTS, IGNORE), bare)
    assert targets.is_background.all()
    assert not targets.is_part.any()
    assert look_up(jnp.array([-1]), np.zeros(0, np.int32)).tolist() == [-1]


def test_slots_hold_the_classes_present_in_ascending_order():
    labels = np.array([[[4, 1], [1, -1]], [[-2, -2], [-2, -2]]], np.int32)
    slots = jax.jit(slot_masks, static_argnums=(1, 2))(labels, 6, 4)
    assert slots.ids.tolist() == [[1, 4, -1, -1], [-1] * 4]
    assert slots.masks[0].astype(int).tolist()[:2] == [[[0, 1], [1, 0]], [[1, 0], [0, 0]]]
    assert not slots.masks[0, 2:].any()
    assert not slots.masks[1].any()


def test_with_too_few_slots_the_largest_stay():
    labels = np.array([[[0, 1, 1, 2, 2, 2]]], np.int32)
    assert slot_masks(labels, 6, 2).ids.tolist() == [[1, 2]]
    assert slot_masks(labels, 2, 5).ids.tolist() == [[0, 1, -1, -1, -1]]


def test_instances_have_a_class_and_a_box():
    instances = np.array([[[0, 0, -1], [1, -1, -1]]], np.int32)
    objects = np.array([[[7, 7, -1], [3, 5, -1]]], np.int32)
    slots = slot_masks(instances, 4, 3)
    assert slot_labels(slots, objects).tolist() == [[7, 3, -1]]
    assert boxes(slots.masks).tolist() == [[[0, 0, 2, 1], [0, 1, 1, 2], [0, 0, 0, 0]]]
