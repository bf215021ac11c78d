"""The probe: perfect features score one, features of nothing score chance."""

import numpy as np
import pytest

from opvseg_jax.train import patch_probe
from opvseg_jax.train.patch_probe import Labels


@pytest.fixture(scope="module")
def scenes():
    images, labels = patch_probe.draw("val_seen", 6, 96)
    return images, patch_probe.at_patches(labels, (12, 12))


def test_a_patch_is_what_most_of_its_pixels_are():
    labels_map = np.full((1, 4, 4), -1)
    labels_map[0, :2, :2] = [[3, 3], [3, 5]]
    labels_map[0, 2:, 2:] = 4
    np.testing.assert_array_equal(
        patch_probe.most_frequent(labels_map, (2, 2)), [[[3, -1], [-1, 4]]]
    )


def test_features_that_are_the_labels_score_one(scenes):
    _, patches = scenes
    part = np.eye(100)[patches.part + 1 + 0 * patches.instance]
    instance = np.eye(10)[patches.instance + 1]
    shown = patches.part >= 0
    both = np.concatenate([instance, part], axis=-1).astype(np.float32)
    both /= np.linalg.norm(both, axis=-1, keepdims=True)
    assert patch_probe.affinity(both, patches, "part") == pytest.approx(1)
    alone = instance.astype(np.float32)
    assert patch_probe.affinity(alone, patches, "instance") > 0.99
    known, labels = part[shown].astype(np.float32), patches.part[shown]
    assert (patch_probe.linear(known, labels, known) == labels).mean() > 0.99


def test_neighbours_vote(scenes):
    rng = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)
    labels = rng.integers(0, 8, 400)
    known = centres[labels] + 0.05 * rng.normal(size=(400, 8)).astype(np.float32)
    np.testing.assert_array_equal(patch_probe.neighbours(known, labels, centres), np.arange(8))


def test_noise_scores_chance(scenes):
    _, patches = scenes
    noise = np.random.default_rng(0).normal(size=(*patches.part.shape, 16)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
    sizes = [np.bincount(p[p >= 0].ravel()) for p in patches.instance]
    share = sum((s / 144 * s).sum() for s in sizes) / sum(s.sum() for s in sizes)
    assert patch_probe.affinity(noise, patches, "instance") == pytest.approx(share, abs=0.05)


def test_the_probe_reports_every_task():
    def colours(images):  # [B, 96, 96, 3] -> means of patches, [B, 12, 12, 3]
        return images.reshape(-1, 12, 8, 12, 8, 3).mean(axis=(2, 4))

    found = patch_probe.probe(colours, fit=12, judge=6)
    assert len(found) == 12
    assert all(0 <= share <= 1 for share in found.values())
    # Colour tells instances apart, far better than it tells kinds.
    assert found["val_seen/affinity/instance"] > 0.4 > found["val_seen/kind/knn"]


def test_part_affinity_tells_two_cars_apart():
    labels = Labels(*(np.zeros((1, 2, 4), int) for _ in range(3)))
    labels.instance[0, :, 2:] = 1
    same = np.ones((1, 2, 4, 3), np.float32)
    same[0, :, 2:] = [1, -1, 0]
    assert patch_probe.affinity(same, labels, "part") == pytest.approx(1)
    same[0, 0] = [5, 5, 5]
    assert (
        patch_probe.affinity(same / np.linalg.norm(same, axis=-1, keepdims=True), labels, "part")
        < 1
    )
