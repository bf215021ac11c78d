"""HOPS on CLIP ViT-B/16 and DINOv2 ViT-S/14, trained on the seen classes of PartImageNet.

The released code is not the run behind the published figures: it drops the fused attention, never
spreads parts, uses the last of two layers alone, and loses its augmentation. Both are here.

Source:   TJU-IDVLab/HOPS at 6273c65 (released); the paper's supplementary material (paper).
Expected: seen/unseen/h-IoU 60.81/57.46/59.08, mOSI 19.08, mUSI 30.90. Ablations, tables 9 and 10:
          neither 56.24/52.13/54.10, 24.92, 36.27     afm 58.53/54.82/56.61, 19.08, 34.24
          aem     58.37/54.51/56.37, 24.92, 32.76     dino 56.77/52.89/54.76, 24.08, 35.91
          clip    58.13/54.04/56.01, 21.25, 34.83
Run:      opvseg train --config configs/hops/partimagenet_b16.py --workdir runs/hops
Ablation: opvseg train --config configs/hops/partimagenet_b16.py:afm --workdir runs/hops-afm
Smoke:    opvseg train --config configs/hops/partimagenet_b16.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "hops",
    "model.size": "B/16",
    "data.name": "partimagenet",
    "data.recipe": "squeezed",
    "data.workers": 8,
    "train.steps": 20_000,
    "train.batch_size": 4,
    "train.lr": 1e-4,
    "train.seed": 12345678,
    "eval.split": "val",
    "eval.protocols": ("standard", "hops", "hops_full"),
}
RELEASED = {
    "model.size": "B/16-released",
    "data.recipe": "top_left",
    "train.batch_size": 2,
    "train.lr": 2e-4,
}
ABLATIONS = {  # what is switched off, or whose attention is used
    "afm": {"model.options": {"spread_parts": False}},
    "aem": {"model.options": {"filter_objects": False}},
    "neither": {"model.options": {"filter_objects": False, "spread_parts": False}},
    "clip": {"model.options": {"attention": "clip"}},
    "dino": {"model.options": {"attention": "dino"}},
}


def get_config(variant=""):
    return vary(CHANGES, variant, released=RELEASED, **ABLATIONS)
