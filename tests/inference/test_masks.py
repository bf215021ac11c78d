"""Run-length encoding must be COCO's to the letter: other programs read it.

The expected strings, boxes and areas were computed once with pycocotools 2.0.11.
"""

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference import masks

SMALL = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]], bool)
CORNER = np.array([[1, 0], [0, 0]], bool)
LINE = (np.arange(5000) == 4321)[None]  # one pixel high
LONG = np.arange(210_000).reshape(3, 70_000, order="F") % 70_000 >= 100  # counts of many digits


def disc() -> np.ndarray:
    y, x = np.mgrid[:120, :90]
    return (y - 60) ** 2 + (x - 40) ** 2 < 35**2


def checkers() -> np.ndarray:
    y, x = np.mgrid[:120, :90]
    return ((y // 7 + x // 5) % 2 == 0)[:23, :31]


DISC = (
    "Th0a0T36J6K4L4M2N2M4M2N2N2N2N2O0O2N2N2O0O2O0O2O000O2O000O2O00000000000000000000000000000001"
    "N10001N10001N101N101N2N2N101N2N2N2N2N3L3N2N3L4L5J6Jgf1"
)
CHECKERS = (
    "0770K050K050K050K05020NK050K050K050K05020NK050K050K050K05020NK050K050K050K05020NK050K050K050"
    "K05020NK050K050K050K05020NK"
)
CASES = {
    "small": (SMALL, "41211", 3, (1, 1, 2, 2)),
    "all ones": (np.ones((2, 3), bool), "06", 6, (0, 0, 3, 2)),
    "all zeros": (np.zeros((2, 3), bool), "6", 0, (0, 0, 0, 0)),
    "first pixel": (CORNER, "013", 1, (0, 0, 1, 1)),
    "disc": (disc(), DISC, 3841, (6, 26, 69, 69)),
    "checkers": (checkers(), CHECKERS, 359, (0, 0, 31, 23)),
    "long runs": (LONG, "T3\\XT2T3000", 209_700, (33, 0, 69_967, 3)),
    "one pixel high": (LINE, "QW41Ve0", 1, (4321, 0, 1, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_encoding_is_cocos(name):
    mask, text, area, box = CASES[name]
    assert masks.encode(mask) == {"size": list(mask.shape), "counts": text}
    assert masks.box(mask) == box
    assert masks.areas(mask.astype(int) - 1, 1).tolist() == [area]


@pytest.mark.parametrize("name", CASES)
def test_both_forms_are_read_back(name):
    mask, text, _, _ = CASES[name]
    np.testing.assert_array_equal(masks.decode({"size": mask.shape, "counts": text}), mask)
    plain = masks.encode(mask, is_compressed=False)
    assert all(isinstance(count, int) for count in plain["counts"])  # what JSON can hold
    np.testing.assert_array_equal(masks.decode(plain), mask)


def test_uncompressed_counts_run_down_the_columns():
    counts = masks.encode(SMALL, is_compressed=False)["counts"]
    assert counts == [4, 1, 2, 2, 3]


def test_a_label_map_gives_what_its_masks_give():
    labels = np.random.default_rng(0).integers(-1, 4, (37, 23)).astype(np.int16)
    labels[labels == 2] = 3  # a label that is absent
    encoded = masks.encode_labels(labels)
    assert sorted(encoded) == [0, 1, 3]
    for label, rle in encoded.items():
        assert rle == masks.encode(labels == label)


def test_a_label_that_fills_the_image_and_one_that_ends_it():
    assert masks.encode_labels(np.zeros((2, 3), int)) == {0: {"size": [2, 3], "counts": "06"}}
    labels = np.array([[-1, 5], [-1, 5]])
    assert masks.encode_labels(labels) == {5: masks.encode(labels == 5)}
    assert masks.encode_labels(np.full((2, 2), -1)) == {}


@pytest.mark.parametrize("counts", ["", "Q", "41 11", [3, 2], [9, -3]])
def test_broken_run_lengths_are_refused(counts):
    with pytest.raises(UserError):
        masks.decode({"size": [2, 3], "counts": counts})
