"""Training-free object and part segmentation: dense CLIP features against words, twice.

Stage one: every patch of the image is compared with the objects' names and with background words.
Stage two: the S largest objects are cropped, encoded as one batch, compared with the names of
their own parts, and pasted back. Both stages are one compiled function.

The dense features come from severed last blocks (GPS, DeOP equation 2): with alpha = 1 each patch
keeps its own value instead of the mixture that serves the class token.

Shapes: B images, S object slots, O objects, T parts, M part slots of an object, R names (objects or
their phrases), K background words, P templates, E embedding, H W canvas, n m patches, h w working
resolution (canvas / stride).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.core.image import resize
from opvseg_jax.core.layers import unit
from opvseg_jax.core.shapes import dims
from opvseg_jax.core.windows import merge_windows, split_windows
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.dino import Dino
from opvseg_jax.encoders.severance import Gps
from opvseg_jax.hierarchy.affinity import feature_affinity
from opvseg_jax.hierarchy.regions import Regions, crop, largest_regions, paste, square_boxes
from opvseg_jax.methods.base import Method, Outputs
from opvseg_jax.text.features import TextFeatures

NEVER = -1e4  # a logit that no softmax lets through, and that stays finite under interpolation
WINDOW_BATCH = 4  # windows encoded at a time, so that memory does not grow with their number


@dataclasses.dataclass(frozen=True)
class ZeroShotOptions:
    """Everything that can be chosen without other weights."""

    num_slots: int = 8  # objects that get parts, the largest first
    crop_size: int = 224  # pixels of a square crop in stage two
    stride: int = 4  # canvas pixels for each pixel of the scores
    windows: int = 1  # stage one sees 1/windows of each side at a time
    crop_windows: int = 1  # stage two likewise, of a crop
    overlap: float = 0.5  # share of a window that its neighbour sees too
    margin: float = 0.1  # share of its side that a crop shows around the object, on each side
    min_area: float = 0.002  # objects below this share of the canvas get no parts
    alphas: tuple[float, ...] = (1.0,)  # GPS of the last blocks, the very last at the end
    rest: float | None = (
        None  # cosine added to the object's own name, which competes with its parts
    )
    clip_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # of pixels in 0..1
    clip_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    dino_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    dino_std: tuple[float, ...] = (0.229, 0.224, 0.225)


class ZeroShot(Method):
    """CLIP, severed; with a DINO encoder its patch affinity smooths the similarities."""

    def __init__(self, vision: ClipVision, options: ZeroShotOptions, *, dino: Dino | None = None):
        self.vision = vision
        self.logit_scale = nnx.Param(jnp.zeros(()))
        self.dino = dino
        self.options = options

    def __call__(
        self, images: jax.Array, text: TextFeatures, valid: jax.Array | None = None
    ) -> Outputs:
        """images [B, H, W, 3] RGB in 0..255, valid [B, H, W] true where there is image."""
        dims(images, "B H W C", C=3)
        scaled = images.astype(jnp.float32) / 255.0
        objects = self.objects(scaled, text)
        if valid is not None:
            inside = resize(valid[..., None].astype(jnp.float32), objects.shape[1:3]) > 0.5
            nothing = jnp.zeros(objects.shape[-1]).at[-1].set(1.0)
            objects = jnp.where(inside, objects, nothing)
        if text.parts.shape[0] == 0 or text.object_to_parts.shape[1] == 0:
            return Outputs(objects, None)
        return Outputs(objects, self.parts(scaled, objects, text))

    def objects(self, scaled: jax.Array, text: TextFeatures) -> jax.Array:
        """Stage one: scaled [B, H, W, 3] in 0..1 -> probabilities [B, h, w, O + 1]."""
        _, height, width, _ = scaled.shape
        names = text.objects if text.phrases is None else text.phrases
        words = jnp.concatenate([names, text.background])
        similarity = self._windowed(scaled, words, self.options.windows)
        named, other = jnp.split(similarity, [len(names)], axis=-1)
        if text.phrases is not None:
            named = _best_phrase(named, text)
        similarity = jnp.concatenate([named, other], axis=-1)  # [B, n, m, O + K]

        stride = self.options.stride
        logits = resize(similarity, (height // stride, width // stride))
        known = jnp.concatenate([text.object_mask, text.background_mask])
        logits = jnp.where(known, jnp.exp(self.logit_scale[...]) * logits, NEVER)
        named, other = jnp.split(logits, [len(text.objects)], axis=-1)
        other = jnp.max(other, axis=-1, keepdims=True, initial=NEVER)
        return jax.nn.softmax(jnp.concatenate([named, other], axis=-1), axis=-1)

    def parts(self, scaled: jax.Array, objects: jax.Array, text: TextFeatures) -> jax.Array:
        """Stage two: scaled [B, H, W, 3], objects [B, h, w, O + 1] -> [B, h, w, T + 1]."""
        b, options = len(scaled), self.options
        has_parts = jnp.pad((text.object_to_parts >= 0).any(axis=1), (0, 1))  # [O + 1]
        labels = jnp.argmax(objects, axis=-1)
        regions = largest_regions(
            jnp.where(has_parts[labels], labels, -1),
            len(text.objects),
            options.num_slots,
            min_area=options.min_area,
        )
        least = self.vision.patch_size / options.stride
        boxes = square_boxes(regions.boxes, margin=options.margin, min_side=least)
        side = options.crop_size
        crops = crop(scaled, boxes * options.stride, (side, side))  # [B, S, c, c, 3]

        indices = text.object_to_parts[regions.objects]  # [B, S, M], -1 where there is no part
        words = text.parts[indices]  # [B, S, M, P, E]
        if options.rest is not None:
            words = jnp.concatenate([words, text.objects[regions.objects][:, :, None]], axis=2)
        similarity = self._windowed(
            crops.reshape(-1, side, side, 3),
            words.reshape(-1, *words.shape[2:]),
            options.crop_windows,
        )
        similarity = similarity.reshape(b, options.num_slots, *similarity.shape[1:])
        return self._part_scores(
            paste(similarity, regions, boxes), regions, indices, len(text.parts)
        )

    def _part_scores(
        self, pasted: jax.Array, regions: Regions, indices: jax.Array, num_parts: int
    ) -> jax.Array:
        """pasted [B, h, w, M (+ 1)], indices [B, S, M] -> probabilities [B, h, w, T + 1]."""
        s, m = indices.shape[1:]
        slots = regions.slots  # [B, h, w]
        chosen = jax.vmap(lambda index, slot: index[slot])(indices, jnp.minimum(slots, s - 1))
        real = (chosen >= 0) & (slots < s)[..., None]  # [B, h, w, M]
        parts, rest = pasted[..., :m], pasted[..., m:] + (self.options.rest or 0.0)
        scale = jnp.exp(self.logit_scale[...])
        logits = jnp.concatenate([jnp.where(real, scale * parts, NEVER), scale * rest], axis=-1)
        scores = jnp.where(real, jax.nn.softmax(logits, axis=-1)[..., :m], 0.0)

        flat = scores.reshape(-1, m)
        columns = jnp.where(real, chosen, num_parts).reshape(flat.shape)
        rows = jnp.arange(len(flat))[:, None]
        full = jnp.zeros((len(flat), num_parts + 1), scores.dtype).at[rows, columns].add(flat)
        full = full.reshape(*scores.shape[:-1], num_parts + 1)
        return full.at[..., -1].set(jnp.maximum(1.0 - scores.sum(axis=-1), 0.0))

    def _windowed(self, scaled: jax.Array, words: jax.Array, count: int) -> jax.Array:
        """As `_similarity`, but 1 / `count` of each side at a time."""
        if count == 1:
            return self._similarity(scaled, words)
        b, *size, _ = scaled.shape
        patch = self.vision.patch_size
        if any(side % (count * patch) for side in size):
            raise ValueError(f"{size} is not made of {count} windows of whole patches of {patch}")
        window = tuple(side // count for side in size)
        share = 1 - self.options.overlap
        stride = tuple(max(1, int(side * share) // patch) * patch for side in window)
        pieces = split_windows(scaled, window, stride)  # [B, V, H, W, 3]
        owners = np.repeat(np.arange(b), pieces.shape[1])

        def one(piece: jax.Array, owner: jax.Array) -> jax.Array:
            own = words if words.ndim == 3 else words[owner][None]
            return self._similarity(piece[None], own)[0]

        each = jax.lax.map(
            lambda pair: one(*pair),
            (pieces.reshape(-1, *window, 3), owners),
            batch_size=WINDOW_BATCH,
        )
        grid, step = (tuple(side // patch for side in pair) for pair in (size, stride))
        return merge_windows(each.reshape(b, -1, *each.shape[1:]), grid, step)

    def _similarity(self, scaled: jax.Array, words: jax.Array) -> jax.Array:
        """scaled [B, H, W, 3], words [R, P, E] or [B, R, P, E] -> cosines [B, n, m, R].

        A word is the unit-norm mean over its templates.
        """
        options = self.options
        last = len(options.alphas)
        severance = {i - last: Gps(alpha) for i, alpha in enumerate(options.alphas)}
        pixels = _normalised(scaled, options.clip_mean, options.clip_std)
        patches = unit(self.vision.dense(pixels, severance=severance)[1])  # [B, n, m, E]
        words = unit(words.astype(jnp.float32).mean(axis=-2))
        formula = "bnme,re->bnmr" if words.ndim == 2 else "bnme,bre->bnmr"
        similarity = jnp.einsum(formula, patches, words)
        if self.dino is None:
            return similarity
        b, n, m, r = similarity.shape
        affinity = feature_affinity(self._dino_patches(scaled, (n, m)).reshape(b, n * m, -1))
        return jnp.einsum("bij,bjr->bir", affinity, similarity.reshape(b, n * m, r)).reshape(
            similarity.shape
        )

    def _dino_patches(self, scaled: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """DINO features on CLIP's grid: the image is resized so that the two grids agree."""
        size = tuple(side * self.dino.patch_size for side in grid)
        pixels = _normalised(scaled, self.options.dino_mean, self.options.dino_std)
        return self.dino(resize(pixels, size, method="bicubic", antialias=True)).patches


def _normalised(scaled: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    return (scaled - jnp.asarray(mean)) / jnp.asarray(std)


def _best_phrase(similarity: jax.Array, text: TextFeatures) -> jax.Array:
    """similarity of phrases [..., R] -> of objects [..., O]: the best phrase speaks for its object.

    Padded phrases are dropped; padded objects keep -1, the smallest cosine.
    """
    count = len(text.objects)
    owners = jnp.where(text.phrase_to_object < 0, count, text.phrase_to_object)
    best = jnp.full((*similarity.shape[:-1], count + 1), -1.0).at[..., owners].max(similarity)
    return best[..., :count]
