"""What the patches of an encoder know: kinds and parts of objects, and which belong together.

Labels are of PartWorld; nothing is trained but a nearest-neighbour table and a ridge regression.
Unseen kinds have no labels in `train`: there, parts are judged by their generic names ("head").

Shapes: B images, S pixels of a side, h w the grid of patches, n patches of objects, C channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from opvseg_jax.pipeline.partworld import PARTS, PARTWORLD, PartWorld
from opvseg_jax.pipeline.partworld_words import GENERIC_PARTS

Encode = Callable[[np.ndarray], np.ndarray]  # [B, S, S, 3] uint8 -> [B, h, w, C]

GENERIC = np.array([GENERIC_PARTS.index(part) for _, part in PARTS])
IS_SEEN = np.array([kind.is_seen for kind in PARTWORLD.values()])
NEIGHBOURS, VOTE_HEAT, NEAREST, RIDGE = 20, 0.07, 10, 1e-2


class Labels(NamedTuple):
    """Of every patch, what most of its pixels are; -1 is background. All [B, h, w]."""

    kind: np.ndarray
    part: np.ndarray
    instance: np.ndarray


def probe(encode: Encode, *, fit: int = 400, judge: int = 200, size: int = 96) -> dict[str, float]:
    """Accuracies and affinities of the encoder on PartWorld, as shares."""
    images, labels = draw("train", fit, size)
    known, grid = features_of(encode, images)
    patches = at_patches(labels, grid)
    shown = patches.kind >= 0
    known, kind, part = known[shown], patches.kind[shown], patches.part[shown]

    out, judged = {}, {}
    for split in ("val_seen", "val_unseen"):
        images, labels = draw(split, judge, size)
        features, grid = features_of(encode, images)
        patches = at_patches(labels, grid)
        judged[split] = features, patches
        is_new = ~IS_SEEN[patches.kind]
        wanted = (patches.kind >= 0) & (is_new if split == "val_unseen" else ~is_new)
        asked, true_part = features[wanted], patches.part[wanted]
        tasks = {"generic_part": (GENERIC[part], GENERIC[true_part])}
        if split == "val_seen":
            tasks |= {"kind": (kind, patches.kind[wanted]), "part": (part, true_part)}
        for task, (given, true) in tasks.items():
            name = f"{split}/{task}"
            out[f"{name}/knn"] = float((neighbours(known, given, asked) == true).mean())
            out[f"{name}/linear"] = float((linear(known, given, asked) == true).mean())
    for split, (features, patches) in judged.items():
        for level in ("instance", "part"):
            out[f"{split}/affinity/{level}"] = affinity(features, patches, level)
    return out


def draw(split: str, count: int, size: int) -> tuple[np.ndarray, Labels]:
    """Images and, for every pixel, its labels."""
    scenes = list(PartWorld(split, size, num_images=count))
    maps = [(s.object_map, s.part_map, s.instance_map) for s in scenes]
    stacked = (np.stack(kind).astype(int) for kind in zip(*maps, strict=True))
    return np.stack([s.image for s in scenes]), Labels(*stacked)


def features_of(encode: Encode, images: np.ndarray, batch: int = 50):
    """Unit features [B, h, w, C] and the grid (h, w)."""
    pieces = [encode(images[i : i + batch]) for i in range(0, len(images), batch)]
    features = np.concatenate([np.asarray(piece, np.float32) for piece in pieces])
    features /= np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return features, features.shape[1:3]


def at_patches(labels: Labels, grid: tuple[int, int]) -> Labels:
    """Maps [B, S, S] -> [B, h, w], each the most frequent label of the patch."""
    return Labels(*(most_frequent(labels_map, grid) for labels_map in labels))


def most_frequent(labels_map: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    h, w = grid
    b, height, width = labels_map.shape
    cells = labels_map.reshape(b, h, height // h, w, width // w).swapaxes(2, 3)
    cells = cells.reshape(b * h * w, -1)
    count = labels_map.max() + 2
    flat = (np.arange(len(cells))[:, None] * count + cells + 1).ravel()
    counts = np.bincount(flat, minlength=len(cells) * count).reshape(len(cells), count)
    return counts.argmax(axis=1).reshape(b, h, w) - 1


def neighbours(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """known [n, C] with labels [n]; asked [m, C] -> the vote of the nearest, weighted, [m]."""
    shares = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    out = []
    for piece in np.array_split(asked, -(-len(asked) // 1000)):
        cosine = piece @ known.T
        nearest = np.argpartition(-cosine, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        votes = np.exp(np.take_along_axis(cosine, nearest, axis=1) / VOTE_HEAT)
        out.append(np.einsum("mk,mkt->mt", votes, shares[nearest]).argmax(axis=1))
    return np.concatenate(out)


def linear(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The same by ridge regression on one column for each label."""
    mean, std = known.mean(axis=0), known.std(axis=0) + 1e-6
    x, y = (known - mean) / std, np.eye(labels.max() + 1, dtype=np.float32)[labels]
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1], dtype=np.float32)
    weights = np.linalg.solve(gram, x.T @ (y - y.mean(axis=0)))
    return ((asked - mean) / std @ weights + y.mean(axis=0)).argmax(axis=1)


def affinity(features: np.ndarray, patches: Labels, level: str) -> float:
    """Of the patches most like a patch of an object, the share in the same instance or part.

    The ten most like it, or as many as its instance or part has besides itself.
    """
    shares = []
    for x, instance, part in zip(features, patches.instance, patches.part, strict=True):
        # Part numbers belong to a kind: two wheels of a car are one part, those of two cars two.
        label = instance.ravel()
        if level == "part":
            label = label * len(PARTS) + part.ravel()
        x = x.reshape(-1, x.shape[-1])
        cosine = x @ x.T
        np.fill_diagonal(cosine, -np.inf)
        order = np.argsort(-cosine, axis=1)[:, :NEAREST]
        same = label[order] == label[:, None]
        mates = np.minimum((label[:, None] == label).sum(axis=1) - 1, NEAREST)
        counted = np.arange(order.shape[1]) < mates[:, None]
        judged = (instance.ravel() >= 0) & (part.ravel() >= 0) & (mates > 0)
        shares.append(((same & counted).sum(axis=1) / np.maximum(mates, 1))[judged])
    return float(np.concatenate(shares).mean())
