"""HOPS of size tiny on PartWorld, the data set that comes with the package: minutes on a CPU.

Source:   own; one layer in each stage, 32 channels wide, four object slots.
Run:      opvseg train --config configs/hops/partworld_tiny.py --workdir runs/tiny
Ablation: opvseg train --config configs/hops/partworld_tiny.py:afm --workdir runs/tiny-afm
Smoke:    opvseg train --config configs/hops/partworld_tiny.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import TINY, vary

CHANGES = {"model.method": "hops", **TINY}
ABLATIONS = {  # what is left, or whose attention is used
    "afm": {"model.options": {"spread_parts": False}},
    "aem": {"model.options": {"filter_objects": False}},
    "neither": {"model.options": {"filter_objects": False, "spread_parts": False}},
    "clip": {"model.options": {"attention": "clip"}},
    "dino": {"model.options": {"attention": "dino"}},
}


def get_config(variant=""):
    return vary(CHANGES, variant, **ABLATIONS)
