"""Writes resize_reference.safetensors beside itself: what PyTorch 2.13.0 answers.

Run with the packages torch, numpy and safetensors: python tests/core/make_resize_reference.py
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

SEED = 20261121
SIZES = (  # (H, W) -> (h, w): up, down, odd, mixed, one pixel, nearly the same
    ((5, 8), (11, 13)),
    ((14, 13), (6, 5)),
    ((1, 1), (3, 4)),
    ((9, 1), (1, 5)),
    ((4, 3), (1, 1)),
    ((6, 5), (12, 10)),
    ((12, 10), (6, 5)),
    ((11, 4), (10, 17)),
    ((3, 19), (16, 2)),
    ((13, 12), (12, 13)),
    ((7, 7), (7, 7)),
)
SCALES = (((6, 6), (4.1 / 6, 9.1 / 6)), ((8, 5), (2.05, 0.61)), ((5, 9), (1.3, 1.7)))
LINEAR = [
    (method, corners, smooth)
    for method in ("bilinear", "bicubic")
    for corners in (False, True)
    for smooth in (False, True)
]
NEAREST = [("nearest", False, False), ("nearest-exact", False, False)]


def name(source, size, method, corners, smooth, scale=()) -> str:
    flags = ["corners"] * corners + ["antialias"] * smooth
    numbers = ["x".join(map(str, pair)) for pair in (source, size, scale) if pair]
    return "/".join([*numbers, method, *flags])


def interpolate(image: np.ndarray, **options) -> np.ndarray:
    if options["mode"].startswith("nearest"):
        del options["align_corners"], options["antialias"]
    return F.interpolate(torch.from_numpy(image)[None, None], **options)[0, 0].numpy()


def images(random) -> dict[str, np.ndarray]:
    arrays = {}
    for source, size in SIZES:
        image = arrays["in/" + "x".join(map(str, source))] = random.random(source, np.float32)
        for method, corners, smooth in LINEAR + NEAREST:
            arrays["size/" + name(source, size, method, corners, smooth)] = interpolate(
                image, size=size, mode=method, align_corners=corners, antialias=smooth
            )
    for source, scale in SCALES:
        image = arrays["in/" + "x".join(map(str, source))] = random.random(source, np.float32)
        for method, corners, smooth in LINEAR:
            if corners:
                continue
            out = interpolate(
                image, scale_factor=scale, mode=method, align_corners=False, antialias=smooth
            )
            arrays["scale/" + name(source, out.shape, method, False, smooth, scale)] = out
    return arrays


def nearest_indices() -> dict[str, np.ndarray]:
    """The pairs of sizes in which exact arithmetic would read another pixel, and a few others."""
    arrays = {}
    for n_in in range(1, 68):
        for n_out in range(1, 68):
            row = torch.arange(n_in, dtype=torch.float32)[None, None]
            answer = F.interpolate(row, size=n_out, mode="nearest")[0, 0].numpy()
            exact = np.arange(n_out) * n_in // n_out
            if (answer != exact).any() or ((n_in * n_out) % 31 == 0 and n_in > 31):
                arrays[f"nearest/{n_in}/{n_out}"] = answer.astype(np.uint8)
    return arrays


if __name__ == "__main__":
    arrays = images(np.random.default_rng(SEED)) | nearest_indices()
    save_file(
        {key: np.ascontiguousarray(array) for key, array in arrays.items()},
        Path(__file__).with_name("resize_reference.safetensors"),
        metadata={"torch": torch.__version__, "seed": str(SEED)},
    )
