"""PartWorld's images, labels and splits."""

import pickle
import time
from random import Random

import numpy as np
import pytest

from opvseg_jax.pipeline.partworld import (
    ATTRIBUTES,
    IS_SEEN,
    KINDS,
    NOVEL_LOOKS,
    PARTS,
    PARTWORLD,
    SPLITS,
    PartWorld,
    render_many,
    vocabulary,
)
from opvseg_jax.pipeline.partworld_scene import draw

PART_TO_OBJECT = np.array([KINDS.index(kind) for kind, _ in PARTS])
# Mean of image 11 of every split at 96 px.
MEANS = (181.631, 95.927, 85.608, 146.451, 182.854)
VAL = ("val_seen", "val_unseen", "val_novel")


@pytest.fixture(scope="module")
def scenes():
    """100 scenes of each validation split, so that every kind is labelled somewhere."""
    return {split: [PartWorld(split, 128)[i] for i in range(100)] for split in VAL}


@pytest.fixture(scope="module")
def all_scenes(scenes):
    return [scene for split in VAL for scene in scenes[split]]


def same(a, b) -> bool:
    arrays = ("image", "object_map", "part_map", "instance_map")
    rest = ("objects", "background", "captions", "facts")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) and all(
        getattr(a, n) == getattr(b, n) for n in rest
    )


def has_novel_look(scene) -> bool:
    return any((w, KINDS[o.kind]) in NOVEL_LOOKS for o in scene.objects for w in o.attributes)


def test_the_world_is_as_large_as_documented():
    assert (len(KINDS), len(PARTS), len(ATTRIBUTES)) == (16, 69, 13)
    assert len(KINDS) // 5 <= (~IS_SEEN).sum() <= len(KINDS) // 3
    seen_words = {p for k in KINDS if PARTWORLD[k].is_seen for p in PARTWORLD[k].parts}
    for kind in (k for k in KINDS if not PARTWORLD[k].is_seen):
        assert len(seen_words & set(PARTWORLD[kind].parts)) >= 3, kind
    assert {kind for _, kind in NOVEL_LOOKS} == set(KINDS)


def test_vocabulary_is_in_the_order_of_the_maps():
    words = vocabulary()
    assert words.objects == KINDS
    assert tuple((KINDS[p.object], p.generic) for p in words.parts) == PARTS
    np.testing.assert_array_equal(words.seen_object_mask, IS_SEEN)
    np.testing.assert_array_equal(words.seen_part_mask, IS_SEEN[words.part_to_object])


@pytest.mark.parametrize("split", SPLITS)
def test_an_image_depends_on_seed_split_and_index_alone(split):
    world = PartWorld(split, 96, seed=3)
    forward = [world[i] for i in range(6)]
    copy = pickle.loads(pickle.dumps(world))
    backward = [copy[i] for i in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert same(world[-1], world[len(world) - 1])
    assert not np.array_equal(PartWorld(split, 96, seed=4)[0].image, forward[0].image)


def test_images_are_what_they_were():
    # Weights in the package were trained on these pixels: a change of looks must be on purpose.
    means = [PartWorld(split, 96)[11].image.mean() for split in SPLITS]
    np.testing.assert_allclose(means, MEANS, atol=0.02)


def test_split_ends_and_unknown_names_are_errors():
    world = PartWorld("train", num_images=5)
    assert len(world) == 5
    assert len(list(world)) == 5
    with pytest.raises(IndexError):
        world[5]
    with pytest.raises(ValueError, match=r"val_seen.*'test'"):
        PartWorld("test")
    with pytest.raises(ValueError, match="not 4096"):
        PartWorld("train", size=4096)


def test_splits_share_no_image():
    images = [PartWorld(split, 64)[i].image.tobytes() for split in SPLITS for i in range(40)]
    assert len(set(images)) == len(images)


def test_every_object_pixel_has_one_part_of_that_object(all_scenes):
    for scene in all_scenes:
        inside = scene.object_map >= 0
        np.testing.assert_array_equal(scene.part_map >= 0, inside)
        np.testing.assert_array_equal(scene.instance_map >= 0, inside)
        np.testing.assert_array_equal(
            PART_TO_OBJECT[scene.part_map[inside]], scene.object_map[inside]
        )


def test_instances_agree_with_the_maps(all_scenes):
    for scene in all_scenes:
        assert sorted(o.index for o in scene.objects) == [
            i for i in np.unique(scene.instance_map) if i >= 0
        ]
        for thing in scene.objects:
            mask = scene.instance_map == thing.index
            assert mask.sum() == thing.area
            assert set(scene.object_map[mask]) == {thing.kind}
            x0, y0, x1, y1 = thing.box
            assert mask[y0:y1, x0:x1].sum() == thing.area
            assert mask[y0].any()
            assert mask[y1 - 1].any()
            assert mask[:, x0].any()
            assert mask[:, x1 - 1].any()


def test_every_kind_and_part_is_large_enough_to_see(all_scenes):
    areas = {i: [] for i in range(len(PARTS))}
    shares = []
    for scene in all_scenes:
        counts = np.bincount(scene.part_map[scene.part_map >= 0], minlength=len(PARTS))
        for i in np.flatnonzero(counts):
            areas[i].append(counts[i])
        shares.append((scene.object_map >= 0).mean())
    assert min(len(a) for a in areas.values()) >= 10
    small = {PARTS[i]: np.median(a) for i, a in areas.items() if np.median(a) < 30}
    assert not small
    assert 0.15 < np.mean(shares) < 0.4
    assert max(shares) < 0.8


def test_scenes_hold_one_to_four_overlapping_objects(scenes, all_scenes):
    counts = [len(s.objects) for s in all_scenes]
    assert set(counts) == {1, 2, 3, 4}
    boxes_meet = 0
    for scene in scenes["val_seen"]:
        cover = np.zeros((128, 128), int)
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            cover[y0:y1, x0:x1] += 1
        boxes_meet += cover.max() > 1
    assert boxes_meet > 40


def test_validation_splits_hold_what_they_judge(scenes):
    for scene in scenes["val_seen"]:
        assert all(IS_SEEN[o.kind] for o in scene.objects)
    for scene in scenes["val_unseen"]:
        assert not all(IS_SEEN[o.kind] for o in scene.objects)
    assert all(has_novel_look(scene) for scene in scenes["val_novel"])


def test_held_out_looks_appear_in_no_other_split(scenes):
    train = [PartWorld("train", 64)[i] for i in range(400)]
    others = [*train, *scenes["val_seen"], *scenes["val_unseen"]]
    assert not any(has_novel_look(scene) for scene in others)
    pretrain = [PartWorld("pretrain", 64)[i] for i in range(600)]
    for scene in [*pretrain, *others]:
        claims = {f for c in scene.captions for f in c.facts} | scene.facts
        for fact in claims:
            if fact[0] in ("attribute", "look"):
                assert not any((word, fact[-1]) in NOVEL_LOOKS for word in fact[1:-1])


def test_unseen_kinds_stand_in_train_unlabelled_and_unnamed():
    drawn = 0
    for i in range(200):
        scene = PartWorld("train", 64)[i]
        truth = draw("train", 64, Random(f"partworld/0/train/{i}"))
        np.testing.assert_array_equal(truth.image, scene.image)
        is_unseen = ~IS_SEEN[truth.objects] & (truth.objects >= 0)
        drawn += is_unseen.any()
        for true_map, shown in (
            (truth.objects, scene.object_map),
            (truth.parts, scene.part_map),
            (truth.instances, scene.instance_map),
        ):
            np.testing.assert_array_equal(shown, np.where(is_unseen, -1, true_map))
        assert all(IS_SEEN[o.kind] for o in scene.objects)
        named = {word for c in scene.captions for word in c.text.replace("'", " ").split()}
        assert not named & {k for k in KINDS if not PARTWORLD[k].is_seen}
    assert 30 < drawn < 120


def test_pretraining_shows_no_pixel_labels():
    for i in range(50):
        scene = PartWorld("pretrain", 64)[i]
        assert (scene.object_map.max(), scene.part_map.max(), scene.instance_map.max()) == (-1,) * 3
        assert scene.objects == ()
        assert scene.captions


def test_bulk_rendering_equals_one_by_one():
    batch = render_many("val_unseen", 5, 4, 96, maps=True)
    world = PartWorld("val_unseen", 96)
    for i in range(4):
        scene = world[5 + i]
        np.testing.assert_array_equal(batch.images[i], scene.image)
        np.testing.assert_array_equal(batch.object_maps[i], scene.object_map)
        np.testing.assert_array_equal(batch.part_maps[i], scene.part_map)
        assert batch.captions[i] == scene.captions
        assert batch.facts[i] == scene.facts
    assert render_many("pretrain", 0, 1, 96).object_maps is None


@pytest.mark.parametrize("size", [96, 160])
def test_one_core_draws_over_100_images_a_second(size):
    render_many("val_unseen", 0, 5, size)  # fills the caches of background pictures
    start = time.process_time()
    render_many("val_unseen", 0, 100, size)
    assert 100 / (time.process_time() - start) > 100
