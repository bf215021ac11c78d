"""PartCATSeg of size tiny on PartWorld, the data set that comes with the package: minutes on a CPU.

Source:   own; one layer in each of the two passes, 32 channels wide.
Run:      opvseg train --config configs/partcatseg/partworld_tiny.py --workdir runs/tiny
Smoke:    opvseg train --config configs/partcatseg/partworld_tiny.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import TINY, vary

CHANGES = {"model.method": "partcatseg", **TINY}


def get_config(variant=""):
    return vary(CHANGES, variant)
