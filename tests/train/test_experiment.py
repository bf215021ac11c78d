"""From a config to model, weights, words and samples; what is missing is told in a sentence."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import yaml
from flax import nnx
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import part_of
from opvseg_jax.hub.encoders import load_clip
from opvseg_jax.hub.presets import shipped
from opvseg_jax.hub.sizes import MAKEUPS, makeup
from opvseg_jax.train.config import load
from opvseg_jax.train.draw import drawn
from opvseg_jax.train.experiment import assemble
from opvseg_jax.train.model_folder import write_model

OF = {"pcaseg-parts": "pcaseg/partworld_parts_tiny"}
SMALL = ["data.images=4", "eval.images=3"]


def config_of(method: str, *words: str):
    place = OF.get(method, f"{method}/partworld_tiny")
    return load(f"configs/{place}.py", [*SMALL, *words])


@pytest.fixture(scope="module")
def hops(cache_folder):
    return assemble(config_of("hops"))


@pytest.fixture(scope="module")
def catseg(cache_folder):
    return assemble(config_of("catseg"))


@pytest.fixture(scope="module")
def weights(catseg):
    return catseg.weights()


@pytest.mark.parametrize("method", MAKEUPS)
def test_every_method_is_put_together_and_its_tables_fit_every_leaf(method):
    experiment = assemble(config_of(method))
    assert len(experiment.vocabulary) == 12
    assert len(experiment.eval_vocabulary) == 16
    for table in (experiment.learning_rates, experiment.weight_decay):
        for path in experiment.plan.shapes:
            assert any(re.fullmatch(pattern, path) for pattern, _ in table)
    for path, leaf in experiment.plan.shapes.items():
        origin = makeup(method).origin(path)
        assert experiment.plan.shapes[origin].shape == leaf.shape


def test_weights_are_those_of_the_encoders_and_the_rest_is_drawn(catseg, weights):
    assert {path: leaf.shape for path, leaf in weights.items()} == {
        path: leaf.shape for path, leaf in catseg.plan.shapes.items()
    }
    clip = load_clip(shipped("tiny_clip")).weights
    assert clip.keys() == part_of(weights, "clip").keys()
    for path, leaf in clip.items():
        np.testing.assert_array_equal(weights[f"clip/{path}"], leaf)
    for path, leaf in weights.items():
        assert np.isfinite(leaf).all()
        assert not path.endswith("kernel") or np.std(leaf) > 0


class Pair(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Param(jax.random.uniform(rngs.params(), (40, 50), minval=-1.0))
        self.second = nnx.Param(jax.random.uniform(rngs.params(), (40, 50), minval=-1.0))
        self.third = nnx.Param(jax.random.normal(rngs.params(), (2000,)))


def test_what_is_drawn_follows_the_seed_and_is_spread_as_it_should_be():
    paths = ["first", "second", "third"]
    one, again, other = (drawn(Pair, paths, seed) for seed in (1, 1, 2))
    for path in paths:
        np.testing.assert_array_equal(one[path], again[path])
        assert not np.array_equal(one[path], other[path])
    first, second = np.asarray(one["first"]).ravel(), np.asarray(one["second"]).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08
    assert abs(first.mean()) < 0.05
    assert abs(first.std() - 3**-0.5) < 0.02
    assert abs(np.asarray(one["third"]).std() - 1) < 0.06


def test_a_leaf_can_start_as_a_copy_of_another():
    found = drawn(Pair, ["first", "second"], 0, lambda path: "first")
    np.testing.assert_array_equal(found["first"], found["second"])


def test_words_of_a_frozen_tower_are_embedded_once_in_the_templates_of_the_size(hops):
    text = hops.text
    assert text.objects.shape == (12, 4, 96)
    assert len(text.parts) == len(hops.vocabulary.parts)
    np.testing.assert_allclose(np.linalg.norm(text.parts, axis=-1), 1, atol=1e-5)
    weights = {f"clip/{path}": leaf for path, leaf in hops.start.clip().items()}
    judged = hops.eval_text(weights)
    assert judged.objects.shape == (16, 4, 96)
    np.testing.assert_allclose(judged.objects[:12], text.objects, atol=1e-6)
    assert hops.eval_text({}) is judged


def test_words_of_a_trained_tower_are_tokens_that_it_reads_as_evaluation_does(catseg, weights):
    text = catseg.text
    assert np.issubdtype(text.objects.dtype, np.integer)
    assert text.objects.shape[:2] == (12, 1)
    read = jax.jit(lambda leaves, text: catseg.plan.merge(leaves).embed(text))
    embedded, judged = read(weights, text), catseg.eval_text(weights)
    np.testing.assert_allclose(embedded.objects, judged.objects[:12], atol=1e-5)
    np.testing.assert_allclose(embedded.parts, judged.parts[: len(text.parts)], atol=1e-5)


def test_a_sharded_class_axis_gets_numbers_of_classes_that_divide():
    text = assemble(config_of("catseg", "mesh.classes=8")).text
    assert (len(text.objects), len(text.parts) % 8) == (16, 0)
    assert int(np.sum(text.object_mask)) == 12


def test_batches_hold_seen_classes_alone(hops):
    batch = hops.loader.batch(0)
    assert batch["image"].shape == (6, 128, 128, 3)
    assert 0 <= batch["object_map"].max() < 12
    assert batch["part_map"].max() < len(hops.vocabulary.parts)


def test_splits_are_joined_for_evaluation(hops):
    assert len(hops.eval_source) == 6
    keys = [hops.eval_source[index].key for index in range(6)]
    assert keys[2:4] == ["val_seen_000002", "val_unseen_000000"]
    assert hops.eval_source.label_maps(3)["object_map"].shape == (128, 128)


def test_options_reach_the_size():
    words = ["model.options.templates=partworld_parts", "model.options.votes=3"]
    size = assemble(config_of("hops", *words, "model.options.head.hidden=64")).size
    assert (size.options.votes, size.head.hidden) == (3, 64)
    single = assemble(config_of("hops", "model.options.templates=a photo of a {}")).size
    assert single.head.num_prompts == 1


def test_a_released_preset_of_hops_freezes_what_gets_no_gradient():
    chained = makeup("hops").learning_rates(assemble(config_of("hops")).size)
    last = assemble(config_of("hops", "model.options.layers=last")).learning_rates
    assert len(last) == len(chained) + 1


def test_a_folder_of_ones_own_trains_on_all_its_classes(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "parts"):
            (tmp_path / kind / split).mkdir(parents=True)
        for index in range(2):
            pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{index}.jpg")
            labels = np.full((40, 60), index + 1, np.uint8)
            Image.fromarray(labels).save(tmp_path / "parts" / split / f"{index}.png")
    words = {"objects": ["dog"], "parts": {"dog": ["head", "leg"]}}
    (tmp_path / "vocabulary.yaml").write_text(yaml.safe_dump(words))
    own = ["data.name=custom", f"data.folder={tmp_path}", "eval.split=val", "train.batch_size=2"]
    experiment = assemble(config_of("hops", *own))
    assert experiment.vocabulary.part_names == ("dog's head", "dog's leg")
    assert sorted(np.unique(experiment.loader.batch(0)["part_map"])) == [0, 1]
    assert len(experiment.eval_source) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.name=voc20", "data.split=val"],
            r"the data set voc20 is not in .*: run opvseg prepare voc20 --source",
        ),
        (["data.split=dev"], "PartWorld has the splits"),
        (["model.clip=tiny_dino"], "model.clip tiny_dino is not a CLIP"),
        (["model.dino=tiny_clip"], "model.dino tiny_clip is not a DINO"),
        (["model.clip=/no/where"], "/no/where"),
        (["model.options.head.num_heads=5"], "model.options do not make a hops of size tiny: "),
        (["model.init=/no/where"], "model.init /no/where holds no model"),
    ],
)
def test_what_is_not_there_is_told_in_a_sentence(words, message):
    with pytest.raises(UserError, match=message):
        assemble(config_of("hops", *words))


def test_an_eva_clip_has_to_be_given():
    with pytest.raises(UserError, match=r"starts from an EVA-02-CLIP.*set model.clip to its file"):
        assemble(config_of("pcaseg", "model.size=B/16"))


def test_an_encoder_of_another_size_is_refused():
    words = ["model.size=B/16", "model.clip=tiny_clip", "model.dino=tiny_dino"]
    with pytest.raises(UserError, match=r"model.clip .*tiny_clip is not the encoder of size B/16"):
        assemble(config_of("hops", *words)).weights()


def test_training_can_start_from_a_model_of_the_same_kind(catseg, weights, tmp_path):
    changed = {path: leaf + 1 for path, leaf in weights.items()}
    write_model(catseg, changed, tmp_path / "model")
    begun = assemble(config_of("catseg", f"model.init={tmp_path}")).weights()
    for path, leaf in changed.items():
        np.testing.assert_array_equal(begun[path], leaf)


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("pcaseg", [], "is a catseg of size tiny: the config wants a pcaseg of size tiny"),
        ("hops", [], "is a catseg of size tiny: the config wants a hops of size tiny"),
        ("catseg", ["model.options.head.hidden=64"], "does not fit catseg"),
        (
            "catseg",
            ["model.size=B/16"],
            "is a catseg of size tiny: the config wants a catseg of size B/16",
        ),
    ],
)
def test_a_model_of_another_kind_is_no_start(catseg, weights, tmp_path, method, words, message):
    write_model(catseg, weights, tmp_path / "model")
    with pytest.raises(UserError, match=message):
        assemble(config_of(method, f"model.init={tmp_path}", *words)).weights()


def test_a_frozen_dataclass_is_what_is_handed_on(hops):
    with pytest.raises(dataclasses.FrozenInstanceError):
        hops.plan = None
