"""The preparation of images that each paper trains and tests with.

`augmentation("parts", vocabulary=...)` gives the transforms of one recipe; a config names it and
may change its numbers. Specifics of the released code that were surely not meant are options.
"""

import inspect
from collections.abc import Callable

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE
from opvseg_jax.pipeline.transforms import (
    ClassCrop,
    ColorSSD,
    Flip,
    LargeScaleJitter,
    Pad,
    Require,
    Resize,
    ResizeTo,
    SeenOnly,
    Transform,
)
from opvseg_jax.vocabulary import Vocabulary

Recipe = tuple[Transform, ...]


def augmentation(name: str, **options) -> Recipe:
    """A recipe by name with some of its numbers changed."""
    if name not in RECIPES:
        raise UserError(f"unknown augmentation {name!r}: expected one of {', '.join(RECIPES)}")
    known = inspect.signature(RECIPES[name]).parameters
    if unknown := [key for key in options if key not in known]:
        raise UserError(
            f"augmentation {name!r} has no option {unknown[0]!r}, only: {', '.join(known)}"
        )
    return RECIPES[name](**options)


def semantic(
    *,
    size: int = 384,
    shorter: int | tuple[int, ...] = 384,
    longest: int = 1333,
    category_area: float = 1.0,
    balanced: float = 0.0,
    jitter: bool = True,
) -> Recipe:
    """CAT-Seg and PCA-Seg on COCO-Stuff."""
    crop = Resize(shorter, longest, size, category_area, balanced)
    return (crop, *_jitter(jitter), Flip(), Pad(size))


def parts(
    *,
    vocabulary: Vocabulary | None = None,
    size: int = 384,
    shorter: int | tuple[int, ...] = 384,
    longest: int = 768,
    category_area: float = 1.0,
    balanced: float = 0.0,
    jitter: bool = True,
) -> Recipe:
    """PartCATSeg, HOPS and PCA-Seg on Pascal-Part-116 and ADE20K-Part-234.

    With a `vocabulary` that has unseen classes, those become background. A crop without any part
    is replaced by another sample.
    """
    crop = Resize(shorter, longest, size, category_area, balanced)
    seen = _seen(vocabulary, BACKGROUND)
    return (crop, *_jitter(jitter), Flip(), *seen, Require("part_map"), Pad(size))


def top_left(*, vocabulary: Vocabulary | None = None, size: int = 384) -> Recipe:
    """PartImageNet in the released code of PartCATSeg and HOPS: no augmentation at all.

    Its loader throws the augmented image away and cuts or pads the original to its top left.
    The papers describe `parts` or, for HOPS, `squeezed`.
    """
    return (*_seen(vocabulary, BACKGROUND), Require("part_map"), Pad(size))


def squeezed(
    *, vocabulary: Vocabulary | None = None, size: int = 384, jitter: bool = True
) -> Recipe:
    """HOPS as its paper words it: the whole image at size x size, jittered and flipped."""
    seen = _seen(vocabulary, BACKGROUND)
    resize = ResizeTo((size, size))
    return (resize, *_jitter(jitter), Flip(), *seen, Require("part_map"), Pad(size))


def deop_prompts(
    *, vocabulary: Vocabulary | None = None, size: tuple[int, int] = (224, 224)
) -> Recipe:
    """DeOP, stage 1: one seen class of the image, boxed."""
    return (*_seen(vocabulary, IGNORE), Require("object_map"), ClassCrop(size), Flip(), Pad(size))


def deop_masks(
    *,
    vocabulary: Vocabulary | None = None,
    size: int = 640,
    shorter: int | tuple[int, ...] = tuple(range(320, 961, 64)),
    longest: int = 2560,
) -> Recipe:
    """DeOP, stage 2 on COCO-Stuff; on VOC size is 512 and longest 2048.

    Unseen classes are ignored; images of nothing else are replaced by others.
    """
    seen = (*_seen(vocabulary, IGNORE), Require("object_map"))
    return (*seen, Resize(shorter, longest, size), ColorSSD(), Flip(), Pad(size))


def deop(
    *,
    vocabulary: Vocabulary | None = None,
    size: int = 512,
    crop: int = 640,
    shorter: int | tuple[int, ...] = (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768),
    longest: int = 2560,
) -> Recipe:
    """DeOP, stage 3 on COCO-Stuff: a crop of 640, cut to its top left 512; on VOC crop is 512."""
    seen = (*_seen(vocabulary, IGNORE), Require("object_map"))
    return (*seen, Resize(shorter, longest, crop), ColorSSD(), Flip(), Pad(size))


def large_scale(*, size: int = 1024, scale: tuple[float, float] = (0.1, 2.0)) -> Recipe:
    """LangHOPS on all its data sets."""
    return (Flip(), LargeScaleJitter(size, tuple(scale)), Pad(size))


def none(*, size: int | None = None) -> Recipe:
    """Nothing, for images that all have one size; `size` pads or cuts to it."""
    return () if size is None else (Pad(size),)


def plain_test(*, shorter: int, longest: int, labels: bool = False) -> Recipe:
    """Test images at the papers' size: CAT-Seg 640 (2560), the part models 640 (768), DeOP 512
    (2560), LangHOPS 800 (1333). With `labels` the maps are resized too, as the part models do."""
    return (Resize(shorter, longest, has_labels=labels),)


RECIPES: dict[str, Callable[..., Recipe]] = {
    "semantic": semantic,
    "parts": parts,
    "top_left": top_left,
    "squeezed": squeezed,
    "deop_prompts": deop_prompts,
    "deop_masks": deop_masks,
    "deop": deop,
    "large_scale": large_scale,
    "none": none,
}


def _jitter(is_on: bool) -> Recipe:
    return (ColorSSD(),) if is_on else ()


def _seen(vocabulary: Vocabulary | None, unseen: int) -> Recipe:
    if vocabulary is None or vocabulary.seen_objects is None:
        return ()
    return (SeenOnly(vocabulary, unseen),)
