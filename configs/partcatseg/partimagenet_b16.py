"""PartCATSeg on CLIP ViT-B/16 and DINOv2 ViT-S/14, trained on the seen classes of partimagenet.

The papers describe random crops, jitter and flips; the released loader throws them away and cuts
the photo to its top left. Images are tested at their own size.

Source:   kaist-cvml/part-catseg at 4a9a882. Released: that loader.
Expected: no figures in our sources.
Run:      opvseg train --config configs/partcatseg/partimagenet_b16.py --workdir runs/partcatseg
Smoke:    opvseg train --config configs/partcatseg/partimagenet_b16.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import vary

CHANGES = {
    "model.method": "partcatseg",
    "model.size": "B/16",
    "data.name": "partimagenet",
    "data.recipe": "parts",
    "data.workers": 8,
    "train.steps": 20_000,
    "train.batch_size": 4,
    "train.lr": 2e-4,
    "train.seed": 12345678,
    "eval.split": "val",
    "eval.protocols": ("standard", "partcatseg"),
    "eval.modes": ("pred_all", "oracle_obj"),
}
RELEASED = {
    "model.options": {"partless": "background", "undo_padding": False},
    "data.recipe": "top_left",
}


def get_config(variant=""):
    return vary(CHANGES, variant, released=RELEASED)
