"""What training writes, the rest of the library reads."""

import json

import numpy as np
import pytest

import opvseg_jax as ov
from opvseg_jax.core.errors import UserError
from opvseg_jax.train.config import load
from opvseg_jax.train.experiment import assemble
from opvseg_jax.train.model_folder import write_model

SMALL = ["model.options.num_slots=2", "model.options.head.decoder=(32,)", "eval.images=1"]


@pytest.fixture(scope="module")
def experiment(cache_folder):
    return assemble(load("configs/hops/partworld_tiny.py", SMALL))


@pytest.fixture(scope="module")
def weights(experiment):
    return experiment.weights()


@pytest.fixture
def workdir(experiment, weights, tmp_path):
    write_model(experiment, weights, tmp_path / "model")
    return tmp_path


def test_a_model_from_training_segments_a_picture(experiment, weights, workdir):
    segmenter = ov.load(workdir)
    assert segmenter.weights.keys() == weights.keys()
    for path, leaf in weights.items():
        np.testing.assert_array_equal(segmenter.weights[path], leaf)
    sample = experiment.eval_source[0]
    result = segmenter(sample.image, experiment.eval_vocabulary)
    assert result.object_map.shape == sample.image.shape[:2]
    assert result.vocabulary == experiment.eval_vocabulary


def test_the_folder_says_how_the_model_was_made(experiment, workdir):
    config = json.loads((workdir / "model/config.json").read_text())
    assert (config["method"], config["size"]) == ("hops", "tiny")
    assert config["options"] == {"num_slots": 2, "head": {"decoder": [32]}}
    assert config["training"]["train.steps"] == 400
    assert ov.Vocabulary.of(config["vocabulary"]) == experiment.vocabulary


def test_a_second_model_takes_the_place_of_the_first(experiment, weights, workdir):
    write_model(experiment, {path: leaf + 1 for path, leaf in weights.items()}, workdir / "model")
    assert [p.name for p in workdir.iterdir()] == ["model"]
    found = ov.load(workdir).weights
    path = next(path for path in found if path.startswith("head/"))
    np.testing.assert_array_equal(found[path], np.asarray(weights[path]) + 1)


def test_leaves_that_are_missing_are_noticed(experiment, weights, tmp_path):
    short = dict(list(weights.items())[1:])
    with pytest.raises(ValueError, match="leaves that are missing or too many"):
        write_model(experiment, short, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_files_is_not_replaced(experiment, weights, tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(UserError, match="files that are not to be replaced"):
        write_model(experiment, weights, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "words"
