"""A whole evaluation counts what a slow one by hand counts, however the images are grouped."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from evaluate import colour_model as colours

from opvseg_jax.core.errors import UserError
from opvseg_jax.evaluate.confusion import Confusion
from opvseg_jax.evaluate.protocols import PROTOCOLS, score
from opvseg_jax.evaluate.run import Running, evaluate
from opvseg_jax.evaluate.shown import BestAndWorst
from opvseg_jax.pipeline.evaluation import evaluation_batches
from opvseg_jax.pipeline.samples import IGNORE
from opvseg_jax.vocabulary import Vocabulary

WORDS = colours.WORDS
SIZES = [(20, 31), (32, 32), (9, 16), (32, 20), (17, 32)]
PLAN = colours.plan()


def judged(source, batch_size=2, **options):
    batches = evaluation_batches(source, batch_size=batch_size, sides=(32,))
    options = {"modes": ("pred_all", "oracle_obj"), "protocols": tuple(PROTOCOLS)} | options
    return evaluate(PLAN, colours.weights(), colours.text(), WORDS, batches, **options)


@pytest.fixture(scope="module")
def counts():
    return judged(colours.Pairs(SIZES))


def by_hand(source, classes, pick):
    confusion = Confusion(classes)
    for index in range(len(source)):
        confusion.add(*pick(*source.maps(index)))
    return confusion.counts


def test_every_pixel_is_counted_once_as_on_the_host(counts):
    source = colours.Pairs(SIZES)
    assert counts.images == len(SIZES)
    objects = by_hand(source, 3, lambda o, p, a, b: (o, a))
    parts = by_hand(source, 5, lambda o, p, a, b: (p, b))
    np.testing.assert_array_equal(counts.tables["objects"].counts, objects)
    np.testing.assert_array_equal(counts.tables["pred_all"].counts, parts)


def test_owners_are_counted_against_the_map_of_objects(counts):
    # sky has no parts; of dog and car, "car" comes first by its letters
    turn = np.array([1, 0, -1, -1])

    def pick(objects, parts, owners, answers):
        return np.where(objects < -1, IGNORE, turn[objects]), turn[owners]

    want = by_hand(colours.Pairs(SIZES), 2, pick)
    np.testing.assert_array_equal(counts.tables["part_owners"].counts, want)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_size_of_a_batch_changes_nothing(counts, batch_size):
    again = judged(colours.Pairs(SIZES), batch_size)
    for name, table in counts.tables.items():
        np.testing.assert_array_equal(again.tables[name].counts, table.counts, err_msg=name)


def test_perfect_answers_get_everything():
    # The published Oracle-Obj knows one object for each record; these have the parts of a dog.
    perfect = judged(colours.Pairs(SIZES, share_wrong=0.0, parts=(-1, 0, 1)))
    for name in PROTOCOLS:
        for report in score(perfect, WORDS, name):
            full = 1.0 if name.startswith("cliper") else 100.0
            got = report.figures["mIoU"]
            assert got == pytest.approx(full, rel=1e-5), (name, report.setting)


def test_with_the_objects_given_only_their_own_parts_are_answered(counts):
    table = counts.tables["oracle_obj"].counts
    owners = WORDS.part_to_object
    strange = owners[:, None] != owners[None]
    assert table[:-1, :-1][strange].sum() == 0
    assert table[-1, :-1].sum() == 0  # where no object is, no part is answered


def test_images_keep_their_own_score():
    shown = BestAndWorst(len(SIZES))
    source = colours.Pairs(SIZES)
    judged(source, protocols=("standard",), on_result=shown)
    assert sorted(kept.key for kept in shown.best) == [f"image {i}" for i in range(len(SIZES))]
    assert shown.worst == []  # all are among the best
    for kept in shown.best:
        _, truth, _, answer = source.maps(int(kept.key.split()[1]))
        alone = Confusion(5)
        alone.add(truth, answer)
        assert kept.iou == pytest.approx(np.nanmean(alone.iou()), abs=1e-6)
        np.testing.assert_array_equal(kept.prediction.part_map, answer)
        assert kept.truth.image.shape[:2] == truth.shape
    assert shown.best[0].iou >= shown.best[-1].iou


def test_sums_leave_the_device_before_int32_is_full():
    one = {"objects": jnp.full((4, 4), 2**29, jnp.int32)}
    running = Running(("objects",), WORDS, most=2**31 - 1)
    for _ in range(8):
        running.add(dict(one), pixels=2**29, images=1)
    total = running.total()
    assert (total.tables["objects"].counts == 8 * 2**29).all()
    assert total.images == 8


def test_words_for_another_data_set_are_refused():
    other = Vocabulary.of("dog: head; car: wheel")
    with pytest.raises(UserError, match="encoded are 2 objects, the data set has 3"):
        evaluate(PLAN, colours.weights(), colours.text(other), WORDS, [])
    with pytest.raises(UserError, match="unknown mode 'oracle'"):
        evaluate(PLAN, colours.weights(), colours.text(), WORDS, [], modes=("oracle",))


def test_a_data_set_without_parts_is_judged_by_its_objects():
    words = dataclasses.replace(WORDS, parts=(), seen_parts=None)
    batches = evaluation_batches(colours.Pairs(SIZES[:1]), sides=(32,))
    found = evaluate(PLAN, colours.weights(), colours.text(words), words, batches)
    assert set(found.tables) == {"objects", "objects/border"}
