"""Open-vocabulary object and part segmentation in JAX.

    import opvseg_jax as ov

    segmenter = ov.load("tiny")
    result = segmenter("photo.jpg", {"dog": ["head", "leg"], "car": ["wheel"]})
    result.overlay().save("overlay.png")

Names are imported when first used, so that `import opvseg_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Segmentation": "opvseg_jax.inference.result",
    "Segmenter": "opvseg_jax.inference.segmenter",
    "UserError": "opvseg_jax.core.errors",
    "Vocabulary": "opvseg_jax.vocabulary",
    "load": "opvseg_jax.hub.load",
}

if TYPE_CHECKING:
    from opvseg_jax.core.errors import UserError as UserError
    from opvseg_jax.hub.load import load as load
    from opvseg_jax.inference.result import Segmentation as Segmentation
    from opvseg_jax.inference.segmenter import Segmenter as Segmenter
    from opvseg_jax.vocabulary import Vocabulary as Vocabulary

__all__ = ["Segmentation", "Segmenter", "UserError", "Vocabulary", "__version__", "load"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'opvseg_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
