"""The samples that a config names: for training with their augmentation, and for evaluation."""

import dataclasses
import inspect
from pathlib import Path

import jax
from ml_collections import ConfigDict

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline import recipes
from opvseg_jax.pipeline.loader import Loader
from opvseg_jax.pipeline.records import is_record_folder
from opvseg_jax.pipeline.samples import Source
from opvseg_jax.pipeline.selections import Joined, Subset
from opvseg_jax.pipeline.sources import data_root, open_source
from opvseg_jax.pipeline.transforms import SeenOnly, Transform
from opvseg_jax.vocabulary import Vocabulary


def training_source(config: ConfigDict) -> Source:
    data = config.data
    return opened(data.name, data.folder, data.split, data.images)


def evaluation_source(config: ConfigDict) -> Source:
    name = config.eval.name or config.data.name
    return opened(name, config.data.folder, config.eval.split, config.eval.images)


def opened(name: str, folder: str, split: str, images: int = 0) -> Source:
    """A split, or several joined by +; the first `images` of each alone, unless 0."""
    parts = [_opened(name, folder, one.strip(), images) for one in split.split("+")]
    return parts[0] if len(parts) == 1 else Joined(parts)


def seen(vocabulary: Vocabulary) -> Vocabulary:
    """What may be trained: the seen classes, or all where there is no split."""
    if vocabulary.seen_objects is None:
        return vocabulary
    return dataclasses.replace(vocabulary.seen_only(), name=vocabulary.name)


def training_transforms(config: ConfigDict, vocabulary: Vocabulary) -> tuple[Transform, ...]:
    """The recipe; classes that are not trained become background, or what the recipe says."""
    name, options = config.data.recipe, config.data.recipe_options.to_dict()
    options = {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()}
    has_split = config.data.classes == "seen" and vocabulary.seen_objects is not None
    if not has_split:
        return recipes.augmentation(name, **options)
    if "vocabulary" in inspect.signature(recipes.RECIPES[name]).parameters:
        return recipes.augmentation(name, **options, vocabulary=vocabulary)
    return (SeenOnly(vocabulary), *recipes.augmentation(name, **options))


def evaluation_transforms(config: ConfigDict) -> tuple[Transform, ...]:
    """Test images at the size that the config says; labels keep theirs."""
    shorter, longest = config.eval.shorter, config.eval.longest
    if not shorter:
        return ()
    return recipes.plain_test(shorter=shorter, longest=longest or 2**16)


def training_loader(config: ConfigDict, source: Source) -> Loader:
    """Batches of this process's share."""
    return Loader(
        source,
        training_transforms(config, source.vocabulary),
        batch_size=config.train.batch_size,
        seed=config.data.seed,
        process=jax.process_index(),
        num_processes=jax.process_count(),
    )


def _opened(name: str, folder: str, split: str, images: int) -> Source:
    if name == "partworld":
        return open_source(name, split, **({"num_images": images} if images else {}))
    if name == "custom":
        source = open_source(folder, split)
    else:
        source = open_source(_prepared(name, folder), split)
    if not images or images >= len(source):
        return source
    return Subset(source, range(images))


def _prepared(name: str, folder: str) -> Path:
    """Where a benchmark lies: below `folder`, or where prepared data sets usually do."""
    root = Path(folder).expanduser() if folder else data_root()
    if not is_record_folder(root / name):
        raise UserError(
            f"the data set {name} is not in {root}: run opvseg prepare {name} "
            f"--source FOLDER_WITH_THE_DOWNLOADS --out {root}"
        )
    return root / name
