"""PartCATSeg on CLIP ViT-B/16 and DINOv2 ViT-S/14, trained on the seen classes of ADE20K-Part-234.

The published run starts its aggregator from a CAT-Seg of 2023, whose file we have not seen; this
one draws it. The paper was not at hand: everything follows the code.

Source:   kaist-cvml/part-catseg at 4a9a882.
Expected: seen/unseen/h-IoU: Pred-All 38.9/17.6/24.2, Oracle-Obj 53.1/47.2/50.0.
Run:      opvseg train --config configs/partcatseg/ade20k_part_234_b16.py --workdir runs/partcatseg
Smoke:    opvseg train --config configs/partcatseg/ade20k_part_234_b16.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "partcatseg",
    "model.size": "B/16",
    "data.name": "ade20k_part_234",
    "data.recipe": "parts",
    "data.workers": 8,
    "train.steps": 20_000,
    "train.batch_size": 4,
    "train.lr": 2e-4,
    "train.seed": 12345678,
    "eval.split": "val",
    "eval.shorter": 640,
    "eval.longest": 768,
    "eval.protocols": ("standard", "partcatseg"),
    "eval.modes": ("pred_all", "oracle_obj"),
}
RELEASED = {"model.options": {"partless": "background", "undo_padding": False}}


def get_config(variant=""):
    return vary(CHANGES, variant, released=RELEASED)
