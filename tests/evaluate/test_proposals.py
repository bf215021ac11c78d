"""Recall counts true segments; what DeOP prints counts answers."""

import numpy as np

from opvseg_jax.evaluate.proposals import deop_hits, recall, segments_of

TRUTH = np.array([[0, 0, 1, 1, 255, 255]])
SEEN = np.array([True, False])


def mask(*columns):
    out = np.zeros((1, 6), bool)
    out[:, list(columns)] = True
    return out


def test_recall_is_about_classes_alone():
    found = recall([mask(0, 1), mask(4, 5)], TRUTH, SEEN, 0.5)
    assert found == (1, 0, 1, 1)  # the ignored segment does not count
    assert found.figures() == {"all": 0.5, "seen": 1.0, "unseen": 0.0}
    assert (found + found).seen == 2


def test_half_an_overlap_is_not_more_than_half():
    assert recall([mask(0)], TRUTH, SEEN, 0.5).found_seen == 0
    assert recall([mask(0)], TRUTH, SEEN, 0.49).found_seen == 1


def test_several_answers_may_hit_one_segment_in_deops_count():
    answers = [mask(0, 1), mask(0, 1, 2), mask(3), mask()]
    hits = deop_hits(answers, TRUTH, ~SEEN, 0.5)
    assert (hits.seen, hits.unseen, hits.answers) == (2, 0, 3)
    assert (hits.seen_segments, hits.unseen_segments) == (2, 1)  # ignored ones count as seen


def test_every_label_is_a_segment():
    assert len(segments_of(TRUTH)) == 3
