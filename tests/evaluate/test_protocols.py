"""What each protocol leaves out, and that nobody needs to guess its name."""

import numpy as np
import pytest
from evaluate.colour_model import WORDS

from opvseg_jax.core.errors import UserError
from opvseg_jax.evaluate import protocols, rules
from opvseg_jax.evaluate.confusion import Confusion
from opvseg_jax.evaluate.protocols import Counts, score
from opvseg_jax.vocabulary import Vocabulary


def part_counts(*rows):
    """Truth in the rows; five parts and nothing."""
    counts = Confusion(5, np.array(rows))
    owners, border = Confusion(2), Confusion(5)
    return Counts({"pred_all": counts, "part_owners": owners, "pred_all/border": border}, 1)


@pytest.fixture
def counts():
    """Seen: part 0 half found, part 1 never. Unseen: 2 is right, 3 and 4 are not in the truth."""
    return part_counts(
        [4, 0, 0, 0, 0, 4],
        [0, 0, 0, 0, 0, 8],
        [0, 0, 8, 0, 0, 0],
        [0] * 6,
        [0] * 6,
        [0, 0, 0, 3, 0, 5],
    )


def figures(counts, name):
    (report,) = score(counts, WORDS, name)
    return report.figures


def test_ours_counts_a_class_that_was_never_found(counts):
    found = figures(counts, "standard")
    assert found["mIoU-seen"] == pytest.approx((50 + 0) / 2)
    assert found["mIoU-unseen"] == pytest.approx(100)
    assert found["h-IoU"] == pytest.approx(2 * 25 * 100 / 125)


@pytest.mark.parametrize("name", ["partcatseg", "hops", "hops_full"])
def test_two_published_ones_leave_it_out(counts, name):
    found = figures(counts, name)
    assert found["mIoU-seen"] == pytest.approx(50)
    (report,) = score(counts, WORDS, name)
    assert "leave out every class whose IoU is 0" in report.note


def test_answers_where_nothing_is_true_cost_ours_but_not_theirs():
    lost = part_counts(*np.diag([8] * 5 + [0])[:5].tolist(), [8, 0, 0, 0, 0, 0])
    assert figures(lost, "standard")["mIoU"] == pytest.approx(90)
    assert figures(lost, "hops_full")["mIoU-seen"] == pytest.approx(75)
    for name in ("partcatseg", "partclipseg"):
        assert figures(lost, name)["mIoU-seen"] == pytest.approx(100)


def test_without_a_split_there_are_no_groups(counts):
    words = Vocabulary.of("dog: head, leg; car: wheel, door, window; sky")
    (report,) = score(counts, words)
    assert set(report.figures) == {"mIoU", "fwIoU", "mACC", "pACC", "mUSI", "mBIoU", "mOSI"}


def test_absent_but_answered_classes_are_zeros_in_old_detectron2_alone():
    matrix = np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert rules.detectron2(matrix).figures["mIoU"] == pytest.approx(75)
    assert rules.detectron2_06(matrix).figures["mIoU"] == pytest.approx(37.5)


def test_a_mistyped_protocol_is_told_the_nearest():
    with pytest.raises(UserError, match="unknown protocol 'partcat': did you mean 'partcatseg'"):
        protocols.protocol("partcat")
    with pytest.raises(UserError, match="there are standard, ov_parts"):
        protocols.tables_of(["xyz"], [], WORDS)


def test_only_what_is_read_is_counted():
    assert protocols.tables_of(["partcatseg"], ["pred_all"], WORDS) == ("pred_all",)
    assert protocols.tables_of(["deop", "detectron2_0.6"], ["pred_all"], WORDS) == ("objects",)
    many = Vocabulary.of([f"w{i}" for i in range(300)])
    assert protocols.tables_of(["detectron2"], [], many) == ("objects",)  # 8 bits are too few


def test_the_background_is_clipers_first_class():
    matrix = np.arange(16).reshape(4, 4)
    moved = protocols.background_first(matrix, None)
    assert moved[0, 0] == matrix[3, 3]
    assert moved[1, 2] == matrix[0, 1]
    merged = protocols.background_first(matrix, 1)
    assert merged.shape == (3, 3)
    assert merged[0, 0] == matrix[1, 1] + matrix[1, 3] + matrix[3, 1] + matrix[3, 3]
    assert merged[2, 1] == matrix[2, 0]
