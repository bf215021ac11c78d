"""COCO's average precision on cases small enough for paper and pencil."""

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.evaluate.instances import average_precision
from opvseg_jax.inference import masks


def data(*boxes, categories=(1, 2), **extra):
    """A data set of one image of 100 x 100 with these boxes (category, x, y, width, height)."""
    annotations = [
        {"image_id": 1, "category_id": c, "bbox": list(box), "iscrowd": 0, **extra}
        for c, *box in boxes
    ]
    return {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": c} for c in categories],
        "annotations": annotations,
    }


def found(*boxes):
    """Detections (score, category, x, y, width, height)."""
    return [
        {"image_id": 1, "category_id": c, "score": score, "bbox": list(box)}
        for score, c, *box in boxes
    ]


def test_a_perfect_box_after_a_wrong_one():
    truth = data((1, 10, 10, 20, 20))
    surer = found((0.9, 1, 60, 60, 20, 20), (0.5, 1, 10, 10, 20, 20))
    got = average_precision(truth, surer, "bbox")
    assert got.figures()["AP"] == pytest.approx(50)  # one of two is right wherever it is found
    assert got.figures()["AP"] == got.figures()["APs"]
    assert np.isnan(got.figures()["APl"])
    assert np.isnan(got.per_category()[2])
    assert got.group([1, 2]) == pytest.approx(50)
    assert np.isnan(got.group([2]))


def test_the_overlap_decides_at_which_thresholds_a_box_counts():
    truth = data((1, 0, 0, 20, 10))
    got = average_precision(truth, found((0.5, 1, 0, 0, 14, 10)), "bbox")  # IoU 0.7
    assert got.figures()["AP50"] == pytest.approx(100)
    assert got.figures()["AP75"] == pytest.approx(0)
    assert got.figures()["AP"] == pytest.approx(50)  # .50, .55, .60, .65, .70


def test_a_thing_is_found_once():
    truth = data((1, 0, 0, 20, 20), (1, 50, 50, 20, 20))
    twice = found((0.9, 1, 0, 0, 20, 20), (0.8, 1, 0, 0, 20, 20))
    assert average_precision(truth, twice, "bbox").figures()["AP50"] == pytest.approx(
        100 * 51 / 101
    )


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong():
    truth = data((1, 0, 0, 20, 20))
    truth["annotations"].append(
        {"image_id": 1, "category_id": 1, "bbox": [50, 50, 40, 40], "iscrowd": 1}
    )
    inside = [(0.9, 1, 52, 52, 10, 10), (0.8, 1, 70, 70, 10, 10)]
    got = average_precision(truth, found(*inside, (0.5, 1, 0, 0, 20, 20)), "bbox")
    assert got.figures()["AP"] == pytest.approx(100)


def test_masks_are_compared_pixel_by_pixel():
    mask = np.zeros((100, 100), bool)
    mask[10:40, 10:40] = True
    half = mask.copy()
    half[10:25] = False
    truth = data((1, 10, 10, 30, 30), segmentation=masks.encode(mask))
    detection = {"image_id": 1, "category_id": 1, "score": 1.0, "segmentation": masks.encode(half)}
    figures = average_precision(truth, [detection]).figures()
    assert figures["AP50"] == pytest.approx(100)
    assert figures["AP"] == pytest.approx(10)  # IoU is 0.5: at the first threshold alone


def test_nothing_found_is_zero():
    assert average_precision(data((1, 0, 0, 9, 9)), [], "bbox").figures()["AP"] == 0


def test_mistakes_are_told():
    with pytest.raises(UserError, match="unknown kind of instances 'mask': bbox or segm"):
        average_precision(data(), [], "mask")
    strange = [{**found((0.5, 1, 0, 0, 9, 9))[0], "image_id": 7}]
    with pytest.raises(UserError, match="name image 7, which the truth does not have"):
        average_precision(data(), strange, "bbox")
