"""CAT-Seg on CLIP ViT-B/16, trained on COCO-Stuff (171 classes), tested on six other sets.

Source:   cvlab-kaist/CAT-Seg at 6d3a188, configs/vitb_384.yaml. Paper and code agree.
Expected: mIoU A-847 12.0, PC-459 19.0, A-150 31.8, PC-59 57.5, PAS-20 94.6, PAS-20b 77.3.
Run:      opvseg train --config configs/catseg/coco_stuff_b16.py --workdir runs/catseg-b16
Smoke:    opvseg train --config configs/catseg/coco_stuff_b16.py:smoke --workdir runs/smoke
Other sets: opvseg evaluate ... --config.eval.name=context59 (ade847, context459, voc20, voc20b).
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "catseg",
    "model.size": "B/16",
    "data.name": "coco_stuff_171",
    "data.classes": "all",  # the split of this set is another paper's
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
