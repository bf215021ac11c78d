"""What an evaluation leaves behind can be read by people and by programs."""

import csv
import json
import re

import numpy as np
import pytest
from evaluate import colour_model as colours

from opvseg_jax.core.errors import UserError
from opvseg_jax.evaluate import compare, report
from opvseg_jax.evaluate.chart import confusion_picture
from opvseg_jax.evaluate.run import evaluate
from opvseg_jax.evaluate.shown import BestAndWorst
from opvseg_jax.pipeline.evaluation import evaluation_batches

WORDS = colours.WORDS
PROTOCOLS = ("standard", "partcatseg", "cliper")


@pytest.fixture(scope="module")
def shown():
    return BestAndWorst(1)


@pytest.fixture(scope="module")
def evaluation(shown):
    batches = evaluation_batches(colours.Pairs([(32, 20)] * 3), batch_size=3, sides=(32,))
    counts = evaluate(
        colours.plan(),
        colours.weights(),
        colours.text(),
        WORDS,
        batches,
        modes=("pred_all", "oracle_obj"),
        protocols=PROTOCOLS,
        on_result=shown,
    )
    return report.Evaluation.of("a model", "some data", WORDS, counts, PROTOCOLS)


@pytest.fixture(scope="module")
def folder(evaluation, shown, tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "first"
    report.write(evaluation, place, shown)
    return place


def test_the_page_needs_nothing_but_itself(folder):
    page = (folder / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    for text in ("best 1: image", "worst 1: image", "Confusion of objects", "dog&#x27;s head"):
        assert text in page
    assert page.count("<article>") == 2


def test_the_page_says_which_protocols_leave_out_zeros(folder):
    page = (folder / "index.html").read_text()
    assert "PartCATSeg (partcatseg) and that of HOPS" in page
    assert "Ours (standard) does not: such a class counts as 0" in page


def test_every_number_stands_under_its_protocol(folder, evaluation):
    about = json.loads((folder / "evaluation.json").read_text())
    assert {(r["protocol"], r["setting"]) for r in about["reports"]} == {
        *(("standard", setting) for setting in ("objects", "pred_all", "oracle_obj")),
        *(("partcatseg", setting) for setting in ("pred_all", "oracle_obj")),
        ("cliper", "objects"),
    }
    ours = evaluation.report("standard", "pred_all")
    (stored,) = [
        r for r in about["reports"] if r["setting"] == "pred_all" and r["note"][:4] == "Ours"
    ]
    assert stored["figures"]["h-IoU"] == ours.figures["h-IoU"]
    assert stored["classes"] == list(WORDS.part_names)


def test_classes_stand_in_a_table(folder, evaluation):
    rows = list(csv.DictReader((folder / "per_class.csv").open()))
    assert [row["class"] for row in rows[:3]] == ["dog", "car", "sky"]
    assert [row["split"] for row in rows[:3]] == ["seen", "unseen", "seen"]
    want = evaluation.counts.tables["objects"].counts.sum(axis=1)
    assert [int(row["pixels"]) for row in rows[:3]] == want[:3].tolist()


def test_the_counts_can_be_reduced_again(folder, evaluation):
    stored = np.load(folder / "counts.npz")
    np.testing.assert_array_equal(stored["pred_all"], evaluation.counts.tables["pred_all"].counts)


def test_runs_are_set_side_by_side(folder, evaluation, tmp_path):
    runs = [compare.read_run(folder), compare.read_run(folder / "evaluation.json")]
    (table,) = compare.tables(runs)
    assert table.header[1:] == ("first (1)", "first (2)")
    assert "do not compare" not in table.note
    (row,) = [row for row in table.rows if row[0] == "standard, pred_all: h-IoU"]
    assert row[1] == row[2] == f"{evaluation.report('standard', 'pred_all').figures['h-IoU']:.2f}"
    page, *_ = report.write_comparison(runs, tmp_path)
    assert "Comparison of runs" in page.read_text()


def test_runs_on_other_data_are_told_apart(folder):
    run = compare.read_run(folder)
    other = compare.Run("other", run.about | {"data": "elsewhere"})
    (table,) = compare.tables([run, other])
    assert "not made on the same images and words" in table.note


def test_what_is_no_evaluation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no evaluation\.json"):
        compare.read_run(tmp_path)
    (tmp_path / "evaluation.json").write_text("[1]")
    with pytest.raises(UserError, match="is not what opvseg evaluate writes"):
        compare.read_run(tmp_path)


@pytest.mark.parametrize("count", [1, 5, 200])
def test_confusions_are_drawn_for_few_and_many_classes(count):
    names = tuple(f"class {i}" for i in range(count))
    picture = confusion_picture(np.eye(count + 1, dtype=np.int64) * 7, names)
    assert 300 < picture.width < 1000
    assert confusion_picture(np.zeros((count + 1,) * 2, np.int64), names).width > 100
