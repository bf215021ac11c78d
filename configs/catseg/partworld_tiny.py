"""CAT-Seg of size tiny on PartWorld, the data set that comes with the package: minutes on a CPU.

Objects and object-specific parts are two vocabularies for the same weights, trained together.

Source:   own; the aggregator of CAT-Seg with two serial layers, 32 channels wide.
Run:      opvseg train --config configs/catseg/partworld_tiny.py --workdir runs/tiny
Smoke:    opvseg train --config configs/catseg/partworld_tiny.py:smoke --workdir runs/smoke
"""

from opvseg_jax.train.variants import TINY, vary

CHANGES = {"model.method": "catseg", **TINY}


def get_config(variant=""):
    return vary(CHANGES, variant)
