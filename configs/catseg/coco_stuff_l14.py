"""CAT-Seg on CLIP ViT-L/14 at 336 pixels, trained on COCO-Stuff (171 classes).

Source:   cvlab-kaist/CAT-Seg at 6d3a188, configs/vitl_336.yaml. Paper and code agree.
Expected: mIoU A-847 16.0, PC-459 23.8, A-150 37.9, PC-59 63.3, PAS-20 97.0, PAS-20b 82.5.
Run:      opvseg train --config configs/catseg/coco_stuff_l14.py --workdir runs/catseg-l14
Smoke:    opvseg train --config configs/catseg/coco_stuff_l14.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "catseg",
    "model.size": "L/14@336",
    "data.name": "coco_stuff_171",
    "data.classes": "all",
    "data.recipe": "semantic",
    "data.workers": 8,
    "train.steps": 80_000,
    "train.batch_size": 4,
    "train.lr": 2e-4,
    "train.save_every": 5_000,
    "train.best": "miou",
    "eval.name": "ade150",
    "eval.split": "val",
    "eval.shorter": 640,
    "eval.longest": 2560,
    "eval.protocols": ("detectron2",),
}


def get_config(variant=""):
    return vary(CHANGES, variant)
