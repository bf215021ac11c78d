"""A small tokenizer of CLIP's kind, trained once for the tests of this folder."""

import pytest

from opvseg_jax.text.tokenizer import train_tokenizer

CAPTIONS = [
    f"a {size} photo of the {part} of a {kind} in the scene"
    for size in ("small", "large", "cropped")
    for kind in ("dog", "horse", "aeroplane", "window-blind", "potted plant")
    for part in ("head", "leg", "wing", "tail")
]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS, 600, folder)
    return folder
