"""Samples -> array_record files with TFDS features. Imports TFDS (extra "data"), never TensorFlow.

Features: image (the file's bytes), object_map, part_map (PNG, 8 or 16 bits), instance_map (16-bit
PNG, 0 none), key. `metadata.json` holds the vocabulary's name, the ignore value and the counts.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from opvseg_jax.data.builders.benchmark import (
    VERSION,
    Benchmark,
    Item,
    Labels,
    Layout,
    Sample,
    SampleError,
)
from opvseg_jax.data.builders.labels import to_png, upright_size

from opvseg_jax.core.errors import UserError

try:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
    from etils import epath
    from tensorflow_datasets.core import naming
except ImportError as error:
    raise UserError(
        f"{error.name} is not installed: pip install 'opvseg_jax[data]' to prepare data sets"
    ) from error

log = logging.getLogger(__name__)


def features(labels: Labels, has_instances: bool) -> tfds.features.FeaturesDict:
    maps = {"object_map": labels.dtype}
    if labels.num_parts:
        maps["part_map"] = labels.dtype
    if has_instances:
        maps["instance_map"] = np.dtype(np.uint16)
    label_maps = {
        name: tfds.features.Image(shape=(None, None, 1), dtype=dtype, encoding_format="png")
        for name, dtype in maps.items()
    }
    image = tfds.features.Image(shape=(None, None, 3))
    return tfds.features.FeaturesDict({"image": image, **label_maps, "key": tfds.features.Text()})


def example(key: str, sample: Sample, labels: Labels, has_instances: bool) -> dict[str, Any]:
    """What TFDS stores; a sample that is inconsistent is an error."""
    check(sample, labels)
    out = {"key": key, "image": sample.image, "object_map": to_png(sample.object_map)}
    if labels.num_parts:
        out["part_map"] = to_png(sample.part_map)
    if has_instances:
        unknown = np.zeros(sample.object_map.shape, np.uint16)
        out["instance_map"] = to_png(
            unknown if sample.instance_map is None else sample.instance_map
        )
    return out


def check(sample: Sample, labels: Labels) -> None:
    """Every map has the image's size, every value is a class or the ignore value."""
    size = upright_size(sample.image)
    counts = {"object": labels.num_objects, "part": labels.num_parts}
    maps = {"object": sample.object_map, "part": sample.part_map, "instance": sample.instance_map}
    for name, values in maps.items():
        if values is None:
            continue
        if values.shape != size:
            raise SampleError(
                f"{name} map of {values.shape[0]} x {values.shape[1]} for an image "
                f"of {size[0]} x {size[1]}"
            )
        if name in counts:
            wrong = values[(values >= counts[name]) & (values != labels.ignore)]
            if wrong.size:
                raise SampleError(f"{name} label {wrong[0]}: expected below {counts[name]}")


class Writer:
    """One array_record file; close it, or what was written does not count."""

    def __init__(self, path: Path, labels: Labels, has_instances: bool):
        self.features = features(labels, has_instances)
        info = self.features.get_serialized_info()
        self.serializer = tfds.core.example_serializer.ExampleSerializer(info)
        # One record for each group: random access then decompresses nothing else.
        self.file = ArrayRecordWriter(str(path), "group_size:1")

    def add(self, values: Mapping[str, Any]) -> int:
        """Returns the number of bytes."""
        message = self.serializer.get_tf_example(self.features.encode_example(values))
        data = message.SerializeToString(deterministic=True)  # the order of features is free
        self.file.write(data)
        return len(data)

    def close(self) -> None:
        self.file.close()


def read_records(path: Path, labels: Labels, has_instances: bool):
    """Yields the stored values, images and maps still encoded."""
    parser = tfds.core.example_parser.ExampleParserNp(
        features(labels, has_instances).get_serialized_info()
    )
    reader = ArrayRecordReader(str(path))
    for i in range(reader.num_records()):
        yield parser.parse_example(reader.read([i])[0])
    reader.close()


class BenchmarkBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The TFDS builder of one benchmark.

    `download_and_prepare()` works as ever, in one process; `opvseg prepare` writes the same records
    with many, can resume, and uses this class for features and metadata.
    """

    VERSION = tfds.core.Version(VERSION)
    name = "benchmark"
    url_infos: ClassVar[dict] = {}  # nothing is downloaded, so there are no checksums to look for

    def __init__(
        self,
        *,
        benchmark: Benchmark,
        layout: Layout,
        has_instances: bool,
        items: Mapping[str, list[Item]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        self.name = benchmark.name
        self.benchmark, self.layout, self.has_instances = benchmark, layout, has_instances
        self.items, self.facts = items or {}, dict(metadata or {})
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.benchmark.title,
            features=features(self.benchmark.labels, self.has_instances),
            metadata=tfds.core.MetadataDict(self.facts),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(items) for split, items in self.items.items()}

    def _generate_examples(self, items: list[Item]):
        labels = self.benchmark.labels
        for item in items:
            try:
                sample = self.layout.read(item, labels)
                if sample is not None:
                    yield item.key, example(item.key, sample, labels, self.has_instances)
            except SampleError as error:
                log.warning("%s is skipped: %s", item.key, error)


def shard_name(benchmark: Benchmark, split: str, index: int, count: int) -> str:
    return f"{benchmark.name}-{split}.array_record-{index:05d}-of-{count:05d}"


def write_metadata(
    builder: BenchmarkBuilder,
    folder: Path,
    splits: Mapping[str, tuple[list[int], int]],  # {name: (records of each shard, bytes)}
) -> None:
    """dataset_info.json, features.json and metadata.json, as TFDS reads them."""
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=lengths,
            num_bytes=size,
            filename_template=naming.ShardedFileTemplate(
                data_dir=epath.Path(folder),
                dataset_name=builder.name,
                split=name,
                filetype_suffix="array_record",
            ),
        )
        for name, (lengths, size) in splits.items()
    ]
    builder.info.set_splits(tfds.core.SplitDict(infos))
    builder.info.write_to_directory(str(folder))


def read_metadata(folder: Path) -> dict[str, Any]:
    """The facts of a prepared data set, see `opvseg_jax.data.builders.prepare`."""
    try:
        return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is not a prepared data set: no readable metadata.json"
        ) from error


def feature_names(folder: Path) -> set[str]:
    """What the records of a prepared data set hold."""
    return set(tfds.builder_from_directory(str(folder)).info.features)


def encoded_source(folder: Path, split: str):
    """Random access to the records of a split, images and maps as the bytes that were stored."""
    builder = tfds.builder_from_directory(str(folder))
    skipped = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return builder.as_data_source(split, decoders=skipped)
