"""PCA-Seg of size tiny on PartWorld, the data set that comes with the package: minutes on a CPU.

Source:   own; one layer of two parallel blocks with two experts each, 32 channels wide. Its serial
          counterpart of as many blocks is configs/catseg/partworld_tiny.py.
Run:      opvseg train --config configs/pcaseg/partworld_tiny.py --workdir runs/tiny
Without the orthogonal term: ...partworld_tiny.py:no_fod
"""

from opvseg_jax.train.variants import TINY, vary

CHANGES = {"model.method": "pcaseg", **TINY}
NO_FOD = {"model.options": {"orthogonality": 0.0}}


def get_config(variant=""):
    return vary(CHANGES, variant, no_fod=NO_FOD)
