"""Labels at full size: padding and strips change nothing, and every rule picks as it says."""

import numpy as np
import pytest
from evaluate.colour_model import WORDS

from opvseg_jax.core.image import resize
from opvseg_jax.evaluate import decisions

SIZE, CONTENT = (25, 41), (12, 14)


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).random((1, 12, 14, 6), np.float32)


def labels(scores, canvas, frame, rules=None):
    truth = np.zeros((1, *frame), np.int32)
    kept = np.zeros((1, 2, 5), bool)
    places = np.array([CONTENT], np.float32), np.array([SIZE], np.int32)
    rules = rules or {"all": decisions.pred_all}
    return decisions.full_size_labels(scores, *places, truth, kept, rules, canvas)["all"][0]


def test_labels_are_those_of_the_resized_scores(scores):
    want = np.argmax(resize(scores[0], SIZE), axis=-1)
    want = np.where(want == 5, -1, want)
    np.testing.assert_array_equal(labels(scores, CONTENT, SIZE), want)


def test_padding_of_image_and_labels_is_cut_away(scores):
    plain = labels(scores, CONTENT, SIZE)
    padded = np.pad(scores, ((0, 0), (0, 4), (0, 2), (0, 0)), constant_values=9)
    found = labels(padded, (16, 16), (32, 48))
    np.testing.assert_array_equal(found[: SIZE[0], : SIZE[1]], plain)


def test_strips_of_rows_give_what_one_piece_gives(scores, monkeypatch):
    plain = labels(scores, CONTENT, SIZE)
    monkeypatch.setattr(decisions, "MAX_FLOATS", 5 * SIZE[1] * 6)
    np.testing.assert_array_equal(labels(scores, CONTENT, SIZE), plain)


def test_parts_of_the_true_object_alone(scores):
    strip = scores[0]
    truth = np.array([[0, 1, 2, -1]] * 12)[:, [0, 1, 2, 3] * 3 + [0, 1]]
    rule = decisions.decisions(WORDS)["oracle_obj"]
    found = np.asarray(rule(strip, truth, None))
    assert (found[truth == 0] < 2).all()
    assert np.isin(found[truth == 1], [2, 3, 4]).all()
    assert (found[(truth == 2) | (truth == -1)] == -1).all()  # sky has no parts


def test_names_inside_of_names_widen_the_published_choice():
    words = type(WORDS).of("bed: leg; bedside table: leg, drawer")
    inside, exact = decisions.parts_by_name(words)
    assert inside.tolist() == [[True, True, True], [False, True, True]]
    assert exact.tolist() == [[True, False, False], [False, True, True]]
    kept = decisions.kept_parts(np.array([[-1, 1], [-2, 0]]), inside, exact)
    assert np.asarray(kept).tolist() == [[True, True, True], [True, True, True]]
    kept = decisions.kept_parts(np.full((2, 2), -1), inside, exact)
    assert not np.asarray(kept).any()
