"""PCA-Seg for parts on CLIP ViT-B/16 and DINOv2 ViT-S/14: Pascal-Part-116.

Neither code nor settings of this variant were published beside steps and batch: the model is our
inference, the learning rate that of PartCATSeg, whose blocks it makes parallel.

Source:   the paper (PixelSegTech/PCA-Seg at 59c90ea has no code of it).
Expected: seen/unseen/h-IoU: Pred-All 57.2/43.5/49.3, Oracle-Obj 60.5/47.1/52.9.
Run:      opvseg train --config configs/pcaseg/pascal_part_116_b16.py --workdir runs/pcaseg
Smoke:    opvseg train --config configs/pcaseg/pascal_part_116_b16.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "pcaseg-parts",
    "model.size": "B/16",
    "data.name": "pascal_part_116",
    "data.recipe": "parts",
    "data.workers": 8,
    "train.steps": 30_000,
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
