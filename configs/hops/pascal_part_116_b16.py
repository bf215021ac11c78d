"""HOPS on CLIP ViT-B/16 and DINOv2 ViT-S/14, trained on the seen classes of Pascal-Part-116.

The paper reports this set; the release has no config for it. Settings are those of PartImageNet,
samples are prepared as in PartCATSeg, whose loader the release has.

Source:   TJU-IDVLab/HOPS at 6273c65 and the paper's supplementary material.
Expected: the figures of this set are not in our sources.
Run:      opvseg train --config configs/hops/pascal_part_116_b16.py --workdir runs/hops
Smoke:    opvseg train --config configs/hops/pascal_part_116_b16.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "hops",
    "model.size": "B/16",
    "data.name": "pascal_part_116",
    "data.recipe": "parts",
    "data.workers": 8,
    "train.steps": 20_000,
    "train.batch_size": 4,
    "train.lr": 1e-4,
    "train.seed": 12345678,
    "eval.split": "val",
    "eval.shorter": 640,
    "eval.longest": 768,
    "eval.protocols": ("standard", "hops", "hops_full"),
}
RELEASED = {"model.size": "B/16-released", "train.batch_size": 2, "train.lr": 2e-4}


def get_config(variant=""):
    return vary(CHANGES, variant, released=RELEASED)
