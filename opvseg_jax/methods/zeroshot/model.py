"""Training-free object and part segmentation: dense CLIP features against words, twice.

Stage one: every patch of the image is compared with the objects' names and with background words.
Stage two: the S largest objects are cropped, encoded as one batch, compared with the names of
their own parts, and pasted back. Both stages are one compiled function.

The dense features come from a severed last block (GPS, DeOP equation 2, alpha = 1): each patch
keeps its own value instead of the mixture that serves the class token.

Shapes: B images, S object slots, O objects, T parts, M part slots of an object, K background
words, N patches, E embedding, H W canvas, h w working resolution (canvas / stride).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims
from opvseg_jax.core.windows import merge_windows, split_windows
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.dino import Dino
from opvseg_jax.hierarchy.affinity import feature_affinity
from opvseg_jax.hierarchy.regions import Regions, crop, largest_regions, paste, square_boxes
from opvseg_jax.methods.base import Method, Outputs
from opvseg_jax.text.features import TextFeatures

NEVER = -1e4  # a logit that no softmax lets through, and that stays finite under interpolation


@dataclasses.dataclass(frozen=True)
class ZeroShotOptions:
    """Everything that can be chosen without other weights."""

    num_slots: int = 8  # objects that get parts, the largest first
    crop_size: int = 224  # pixels of a square crop in stage two
    stride: int = 4  # canvas pixels for each pixel of the scores
    window: int | None = None  # side of the sliding window of stage one; None: the whole canvas
    window_stride: int | None = None  # None: half a window
    margin: float = 0.1  # share of its side that a crop shows around the object, on each side
    min_area: float = 0.002  # objects below this share of the image get no parts
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's pixel statistics
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


class ZeroShot(Method):
    """CLIP, severed; with a DINO encoder its patch affinity smooths the similarities."""

    def __init__(self, vision: ClipVision, options: ZeroShotOptions, *, dino: Dino | None = None):
        self.vision = vision
        self.logit_scale = nnx.Param(jnp.zeros(()))
        self.dino = nnx.data(dino)
        self.options = options

    def __call__(
        self, images: jax.Array, text: TextFeatures, valid: jax.Array | None = None
    ) -> Outputs:
        """images [B, H, W, 3] RGB in 0..255, valid [B, H, W] true where there is image."""
        _, height, width, _ = dims(images, "B H W C", C=3)
        scaled = images.astype(jnp.float32) / 255.0
        objects = self._objects(scaled, text)
        if valid is not None:
            inside = resize(valid[..., None].astype(jnp.float32), objects.shape[1:3]) > 0.5
            nothing = jnp.zeros(objects.shape[-1]).at[-1].set(1.0)
            objects = jnp.where(inside, objects, nothing)
        if text.parts.shape[0] == 0:
            return Outputs(objects, None)

        num_objects = text.objects.shape[0]
        regions = largest_regions(
            jnp.argmax(objects, axis=-1),
            num_objects,
            self.options.num_slots,
            min_area=self.options.min_area,
        )
        stride = self.options.stride
        boxes = square_boxes(
            regions.boxes, margin=self.options.margin, min_side=self._patch / stride
        )
        crops = crop(scaled, boxes * stride, (self.options.crop_size, self.options.crop_size))
        return Outputs(objects, self._parts(crops, boxes, regions, text))

    @property
    def _patch(self) -> int:
        return self.vision.patch_size

    def _objects(self, scaled: jax.Array, text: TextFeatures) -> jax.Array:
        """scaled [B, H, W, 3] -> probabilities [B, h, w, O + 1]."""
        b, height, width, _ = scaled.shape
        words = jnp.concatenate([text.objects, text.background])  # [O + K, P, E]
        known = jnp.concatenate([text.object_mask, text.background_mask])
        window = min(self.options.window or max(height, width), height, width)
        if self.options.window is None:
            similarity = self._similarity(scaled, words)
        else:
            step = self.options.window_stride or window // 2 // self._patch * self._patch
            parts = split_windows(scaled, (window, window), (step, step))
            each = self._similarity(parts.reshape(-1, window, window, 3), words)
            grid = (height // self._patch, width // self._patch)
            steps = (step // self._patch, step // self._patch)
            similarity = merge_windows(each.reshape(b, -1, *each.shape[1:]), grid, steps)

        stride = self.options.stride
        logits = jnp.exp(self.logit_scale[...]) * similarity
        logits = resize(logits, (height // stride, width // stride))
        logits = jnp.where(known, logits, NEVER)
        named, background = jnp.split(logits, [text.objects.shape[0]], axis=-1)
        other = jnp.max(background, axis=-1, keepdims=True, initial=NEVER)
        return jax.nn.softmax(jnp.concatenate([named, other], axis=-1), axis=-1)

    def _parts(
        self, crops: jax.Array, boxes: jax.Array, regions: Regions, text: TextFeatures
    ) -> jax.Array:
        """crops [B, S, c, c, 3] -> probabilities [B, h, w, T + 1]."""
        b, s, c, _, _ = crops.shape
        indices = text.object_to_parts[regions.objects]  # [B, S, M], -1 where there is no part
        words = text.parts[indices].reshape(b * s, *indices.shape[2:], *text.parts.shape[1:])
        similarity = self._similarity(crops.reshape(b * s, c, c, 3), words)  # [B * S, n, n, M]
        pasted = paste(similarity.reshape(b, s, *similarity.shape[1:]), regions, boxes)

        slots = jnp.minimum(regions.slots, s - 1)
        owned = regions.slots < s  # [B, h, w]
        chosen = jax.vmap(lambda index, slot: index[slot])(indices, slots)  # [B, h, w, M]
        real = (chosen >= 0) & owned[..., None]
        logits = jnp.where(real, jnp.exp(self.logit_scale[...]) * pasted, NEVER)
        has_parts = real.any(axis=-1, keepdims=True)
        scores = jnp.where(real, jax.nn.softmax(logits, axis=-1), 0.0)

        num_parts = text.parts.shape[0]
        flat = scores.reshape(-1, scores.shape[-1])
        columns = jnp.where(real, chosen, num_parts).reshape(flat.shape)
        rows = jnp.arange(flat.shape[0])[:, None]
        full = jnp.zeros((flat.shape[0], num_parts + 1), scores.dtype).at[rows, columns].add(flat)
        full = full.reshape(*scores.shape[:-1], num_parts + 1)
        return full.at[..., -1].set(jnp.where(has_parts[..., 0], 0.0, 1.0))

    def _similarity(self, scaled: jax.Array, words: jax.Array) -> jax.Array:
        """scaled [B, H, W, 3], words [T, P, E] or [B, T, P, E] -> mean cosine [B, n, m, T]."""
        mean, std = jnp.asarray(self.options.mean), jnp.asarray(self.options.std)
        _, patches = self.vision.dense((scaled - mean) / std, last="gps")  # [B, n, m, E]
        patches = _unit(patches.astype(jnp.float32))
        mixed = words.mean(axis=-2)  # The mean over templates commutes with the cosine.
        contract = "bnme,te->bnmt" if mixed.ndim == 2 else "bnme,bte->bnmt"
        similarity = jnp.einsum(contract, patches, mixed, preferred_element_type=jnp.float32)
        if self.dino is None:
            return similarity
        b, n, m, t = similarity.shape
        affinity = feature_affinity(self._dino_patches(scaled, (n, m)).reshape(b, n * m, -1))
        return jnp.einsum("bnm,bmt->bnt", affinity, similarity.reshape(b, n * m, t)).reshape(
            b, n, m, t
        )

    def _dino_patches(self, scaled: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """DINO features on CLIP's grid: the image is resized so that the two grids agree."""
        size = tuple(side * self.dino.patch_size for side in grid)
        mean, std = jnp.asarray((0.485, 0.456, 0.406)), jnp.asarray((0.229, 0.224, 0.225))
        resized = resize((scaled - mean) / std, size, method="bicubic", antialias=True)
        return self.dino(resized).patches


def _unit(x: jax.Array) -> jax.Array:
    """x / |x|, also in the gradient, also at zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
