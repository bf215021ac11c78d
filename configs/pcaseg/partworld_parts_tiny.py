"""PCA-Seg for parts, of size tiny, on PartWorld: minutes on a CPU.

Source:   own; one layer of two parallel blocks in each pass, two experts, 32 channels wide. Its
          serial counterpart is configs/partcatseg/partworld_tiny.py.
Run:      opvseg train --config configs/pcaseg/partworld_parts_tiny.py --workdir runs/tiny
Without the orthogonal term: ...partworld_parts_tiny.py:no_fod
"""

from opvseg_jax.train.variants import TINY, vary

CHANGES = {"model.method": "pcaseg-parts", **TINY}
NO_FOD = {"model.options": {"orthogonality": 0.0}}


def get_config(variant=""):
    return vary(CHANGES, variant, no_fod=NO_FOD)
