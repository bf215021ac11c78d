"""`--verify` and `--preview`: what a person learns about a prepared data set."""

import numpy as np
import originals
import pytest

pytest.importorskip("tensorflow_datasets", reason="the extra 'data' is not installed")
pytest.importorskip("array_record", reason="the extra 'data' is not installed")

from opvseg_jax.data.builders import records, registry
from opvseg_jax.data.builders.benchmark import Sample
from opvseg_jax.data.builders.labels import to_png
from opvseg_jax.data.builders.prepare import prepare
from opvseg_jax.data.builders.preview import preview
from opvseg_jax.data.builders.verify import class_table, verify


@pytest.fixture
def pascal(tmp_path):
    originals.write_all("pascal_part_116:prepared", tmp_path / "in")
    return prepare("pascal_part_116", tmp_path / "in", tmp_path / "out", workers=0).folder


def rewrite(folder, split, **changed):
    """Replaces values of the first record of a split by what no preparation would write."""
    benchmark = registry.benchmark("pascal_part_116")
    kept = [dict(record) for record in records.encoded_source(folder, split)]
    kept[0] |= changed
    (path,) = folder.glob(f"*-{split}.array_record*")
    writer = records.Writer(path, benchmark.labels, has_instances=False)
    for record in kept:
        writer.add(record)
    writer.close()


def test_it_counts_images_and_labels_and_says_where_totals_differ(pascal):
    findings = verify("pascal_part_116", pascal)
    text = "\n".join(findings.lines)
    assert findings.num_problems == 0
    assert "train: 2 images; published (from memory of a paper) 8431, DIFFERS by -8429" in text
    assert "train: object labels 2..19, 4 of 20 classes occur" in text
    assert "train: part labels 12..41, 3 of 116 classes occur" in text
    counts = findings.counts["train"]
    assert counts.images["object"][6] == 2  # a car in both images
    assert counts.pixels["object"][6] == 2 * 2 * 64  # two rectangles of 8 x 8 in each
    assert counts.pixels["part"][12] == 64  # a bird's tail in one of them


def test_the_table_has_every_class(pascal):
    findings = verify("pascal_part_116", pascal)
    table = class_table(registry.benchmark("pascal_part_116").labels, findings.counts)
    rows = [line.split("\t") for line in table.splitlines()]
    assert len(rows) == 1 + 20 + 116
    assert rows[0][:3] == ["kind", "id", "name"]
    assert rows[0][3:] == ["train_images", "train_pixels", "val_images", "val_pixels"]
    assert rows[1 + 6] == ["object", "6", "car", "2", "256", "1", "128"]
    assert rows[1 + 20 + 41] == ["part", "41", "car's window", "2", "128", "1", "64"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"part_map": to_png(np.full(originals.SIZE, 116, np.uint8))}, "part labels up to 116"),
        ({"object_map": to_png(np.zeros((5, 5), np.uint8))}, "object map of (5, 5)"),
        ({"key": "2008_000002"}, "2008_000002 is there 2 times"),
        ({"object_map": b"no PNG"}, "cannot identify"),
    ],
)
def test_damage_is_found_and_named(pascal, changed, said):
    rewrite(pascal, "train", **changed)
    findings = verify("pascal_part_116", pascal)
    assert findings.num_problems == 1
    assert any("PROBLEM" in line and said in line for line in findings.lines)


def test_parts_on_another_object_are_reported(pascal):
    """A car's wheel everywhere, on birds and monitors too: doubtful, but so are real data."""
    rewrite(pascal, "val", part_map=to_png(np.full(originals.SIZE, 32, np.uint8)))
    findings = verify("pascal_part_116", pascal)
    assert findings.num_problems == 0
    share = 1 - 2 * 64 / (24 * 32)
    assert f"val: {share:.2%} of the part pixels lie on pixels of another object" in findings.lines


def test_processes_count_what_one_counts(pascal):
    assert (
        verify("pascal_part_116", pascal, workers=2).lines
        == verify("pascal_part_116", pascal).lines
    )


def test_inconsistent_samples_never_become_records():
    from opvseg_jax.data.builders.benchmark import SampleError

    labels = registry.benchmark("pascal_part_116").labels
    png = to_png(np.zeros((4, 6), np.uint8))
    ignored = np.full((4, 6), 255, np.uint8)
    records.check(Sample(png, ignored, ignored), labels)
    with pytest.raises(SampleError, match="object label 20: expected below 20"):
        records.check(Sample(png, np.full((4, 6), 20, np.uint8), ignored), labels)
    with pytest.raises(SampleError, match="part map of 6 x 4 for an image of 4 x 6"):
        records.check(Sample(png, ignored, ignored.T), labels)


def test_a_photo_stored_lying_has_the_size_in_which_it_is_shown(tmp_path):
    from opvseg_jax.data.builders.labels import upright_size
    from PIL import Image

    image = Image.new("RGB", (32, 24))
    exif = image.getexif()
    exif[274] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    image.save(tmp_path / "b.jpg")
    assert upright_size((tmp_path / "a.jpg").read_bytes()) == (32, 24)
    assert upright_size((tmp_path / "b.jpg").read_bytes()) == (24, 32)


def test_the_contact_sheet_has_images_at_the_left_and_labels_at_the_right(pascal):
    before = np.asarray(preview("pascal_part_116", pascal, "train"))
    none = to_png(np.full(originals.SIZE, 255, np.uint8))
    rewrite(pascal, "train", object_map=none, part_map=none)  # of the first of two rows
    after = np.asarray(preview("pascal_part_116", pascal, "train"))
    assert after.shape == before.shape
    rows, columns, _ = np.nonzero(after != before)
    assert columns.min() > before.shape[1] // 2
    assert rows.max() < before.shape[0] * 0.6


def test_the_pipeline_reads_what_was_prepared(pascal):
    from opvseg_jax.pipeline.sources import open_source

    source = open_source(str(pascal.parent), "train")
    assert source.vocabulary.name == "pascal_part_116"
    sample = source[0]
    truth = originals.boxes([6, 6, 19, 3], -1, np.int16)
    truth[originals.box(4)] = 2
    np.testing.assert_array_equal(sample.object_map, truth)
