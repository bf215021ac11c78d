"""Prepared benchmarks are read without TFDS; records by object are made on the fly."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline import records
from opvseg_jax.pipeline.pixels import encode_labels
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE, BrokenSampleError, Sample
from opvseg_jax.pipeline.sampling import classes_of
from opvseg_jax.pipeline.selections import Records, Subset
from opvseg_jax.pipeline.sources import RecordSource, open_source
from opvseg_jax.vocabulary import Vocabulary

WORDS = {"objects": ["dog", "car"], "parts": {"dog": ["head", "leg"], "car": ["wheel"]}}


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def example(features: dict) -> bytes:
    """A `tf.train.Example` of bytes features."""
    entries = b""
    for name, value in features.items():
        feature = _field(1, _field(1, value))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def jpeg(height=3, width=4) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def good(i: int) -> dict:
    objects = np.full((3, 4), 255, np.uint8)
    objects[0], objects[1] = 0, 1
    parts = np.full((3, 4), 65535, np.uint16)
    parts[0, :2], parts[1, 0] = 1, 2
    maps = {"object_map": encode_labels(objects), "part_map": encode_labels(parts)}
    return {"image": jpeg(), **maps, "key": f"photo_{i}".encode()}


def write_folder(path, examples, *, facts=None, split="train", count=None):
    array_record = pytest.importorskip("array_record.python.array_record_module")
    path.mkdir(parents=True, exist_ok=True)
    shards = np.array_split(np.arange(len(examples)), 2)
    for k, indices in enumerate(shards):
        file = path / f"toy-{split}.array_record-{k:05d}-of-00002"
        writer = array_record.ArrayRecordWriter(str(file), "group_size:1")
        for i in indices:
            writer.write(example(examples[i]))
        writer.close()
    lengths = [str(len(indices)) for indices in shards]
    info = {"fileFormat": "array_record", "splits": [{"name": split, "shardLengths": lengths}]}
    (path / "dataset_info.json").write_text(json.dumps(info))
    (path / "metadata.json").write_text(
        json.dumps({"vocabulary": WORDS} if facts is None else facts)
    )
    return path


def test_records_of_a_prepared_benchmark(tmp_path):
    write_folder(tmp_path / "toy/1.0.0", [good(i) for i in range(3)])
    source = open_source("toy:train", root=tmp_path)
    assert len(source) == 3
    assert source.vocabulary == Vocabulary.of(WORDS)
    assert [source[i].key for i in range(3)] == ["photo_0", "photo_1", "photo_2"]
    sample = pickle.loads(pickle.dumps(source))[2]
    assert sample.object_map[:, 0].tolist() == [0, 1, BACKGROUND]
    assert sample.part_map[0].tolist() == [1, 1, BACKGROUND, BACKGROUND]


def test_unlabelled_means_ignore_in_a_set_without_parts(tmp_path):
    features = good(0)
    del features["part_map"]
    write_folder(tmp_path, [features], facts={"vocabulary": {"objects": ["dog", "car"]}})
    sample = RecordSource(tmp_path)[0]
    assert sample.object_map[2, 0] == IGNORE
    assert (sample.part_map == IGNORE).all()


def test_a_set_written_by_tfds_is_read(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from array_record.python.array_record_module import ArrayRecordWriter

    label = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "object_map": label,
            "key": tfds.features.Text(),
            "count": np.int64,
        }
    )
    serialize = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    objects = encode_labels(np.array([[0, 65535, 1, 1]], np.uint16))
    values = {"image": jpeg(1, 4), "object_map": objects, "key": "k", "count": -5}
    data = serialize.serialize_example(features.encode_example(values))
    assert records.parse_example(data)["count"] == [-5]
    write_folder(tmp_path, [good(0)])
    for k, file in enumerate(sorted(tmp_path.glob("*array_record-*"))):
        writer = ArrayRecordWriter(str(file), "group_size:1")
        if k == 0:
            writer.write(data)
        writer.close()
    sample = RecordSource(tmp_path, "train")[0]
    assert sample.key == "k"
    assert sample.object_map.tolist() == [[0, BACKGROUND, 1, 1]]


def _truncated(features):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return {**features, "image": stream.getvalue()[:3000]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_truncated, r"record 0 \(photo_0\): image file is truncated"),
        (
            lambda f: {**f, "object_map": encode_labels(np.full((3, 4), 2, np.uint8))},
            "value 2, its",
        ),
        (lambda f: {**f, "part_map": encode_labels(np.full((3, 5), 2, np.uint8))}, "has 5 x 3"),
        (lambda f: {k: v for k, v in f.items() if not k.endswith("map")}, "neither an object map"),
    ],
)
def test_a_broken_record_says_which_and_why(tmp_path, change, message):
    write_folder(tmp_path, [change(good(0)), good(1)])
    source = open_source(tmp_path)
    with pytest.raises(BrokenSampleError, match=message):
        source[0]
    assert source[1].key == "photo_1"


def test_an_empty_split_is_empty(tmp_path):
    assert len(RecordSource(write_folder(tmp_path, []), "train")) == 0


def test_a_lost_file_is_noticed(tmp_path):
    write_folder(tmp_path, [good(0), good(1)])
    next(tmp_path.glob("*-of-00002")).unlink()
    with pytest.raises(UserError, match="1 of 2 files: the preparation did not finish"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("toy:val", "no split 'val', only: train"),
        ("toy:train[a:b]", "expected a name, or a part of it"),
        ("nothing", "no data set 'nothing'"),
    ],
)
def test_a_wrong_reference_is_one_sentence(tmp_path, reference, message):
    write_folder(tmp_path / "toy", [good(0)])
    with pytest.raises(UserError, match=message):
        open_source(reference, root=tmp_path)


def test_partworld_is_a_source():
    source = open_source("partworld:val_unseen[:3]", size=64)
    sample = source[2]
    assert len(source) == 3
    assert sample.image.shape == (64, 64, 3)
    assert source.vocabulary.name == "partworld"
    with pytest.raises(UserError, match="not 'nowhere'"):
        open_source("partworld:nowhere")


class Listed:
    """A source of given samples."""

    name, vocabulary = "listed", Vocabulary.of(WORDS)

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def label_maps(self, index):
        return self.samples[index].label_maps()


def test_records_by_object_show_one_object_each():
    objects = np.array([[0, 0, 1, -1]], np.int16)
    parts = np.array([[0, -1, 2, -1]], np.int16)
    image = np.zeros((1, 4, 3), np.uint8)
    without_parts = Sample(image, objects, np.full_like(parts, -1), "bare")
    source = Records.of(Listed([Sample(image, objects, parts, "two"), without_parts]))
    assert [source[i].key for i in range(len(source))] == ["two/0", "two/1"]
    assert source[1].object_map.tolist() == [[-1, -1, 1, -1]]
    assert source[1].part_map.tolist() == [[-1, -1, 2, -1]]
    assert source[0].part_map.tolist() == [[0, -1, -1, -1]]
    assert Subset(source, [1])[0].key == "two/1"
    with pytest.raises(UserError, match="no instance maps"):
        Records.of(source, by="instance")


def test_records_of_a_common_class_may_be_limited():
    """Class 0 is in six images, class 1 in two; DeOP's prompts see at most three of each."""
    image, bare = np.zeros((1, 2, 3), np.uint8), np.full((1, 2), -1, np.int16)
    maps = [np.array([[0, 1 if i < 2 else 0]], np.int16) for i in range(6)]
    source = Listed([Sample(image, m, bare, str(i)) for i, m in enumerate(maps)])
    assert len(Records.of(source)) == 0
    some = Records.of(source, needs_parts=False, per_class=3)
    assert [label for _, label in some.wanted] == [0, 0, 0, 1, 1]
    assert some.wanted == Records.of(source, needs_parts=False, per_class=3).wanted


def test_classes_are_found_without_decoding_images(tmp_path):
    broken_image = {**good(1), "image": b"no image"}
    write_folder(tmp_path, [good(0), broken_image])
    assert classes_of(open_source(tmp_path)) == [[0, 1], [0, 1]]
