"""PCA-Seg for parts on CLIP ViT-B/16 and DINOv2 ViT-S/14: ADE20K-Part-234.

Neither code nor settings of this variant were published beside steps and batch: the model is our
inference, the learning rate that of PartCATSeg, whose blocks it makes parallel.

Source:   the paper (PixelSegTech/PCA-Seg at 59c90ea has no code of it).
Expected: seen/unseen/h-IoU: Pred-All 40.8/19.2/26.1, Oracle-Obj 56.3/48.2/51.8.
Run:      opvseg train --config configs/pcaseg/ade20k_part_234_b16.py --workdir runs/pcaseg
Smoke:    opvseg train --config configs/pcaseg/ade20k_part_234_b16.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "pcaseg-parts",
    "model.size": "B/16",
    "data.name": "ade20k_part_234",
    "data.recipe": "parts",
    "data.workers": 8,
    "train.steps": 20_000,
    "train.batch_size": 8,
    "train.lr": 2e-4,
    "eval.split": "val",
    "eval.shorter": 640,
    "eval.longest": 768,
    "eval.protocols": ("standard", "partcatseg"),
    "eval.modes": ("pred_all", "oracle_obj"),
}


def get_config(variant=""):
    return vary(CHANGES, variant)
