"""What a user's config and command line may say, and what is answered when it is wrong."""

import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.train.config import base, checked, differences, flat, from_json, load, to_json

TINY = "configs/hops/partworld_tiny.py"
MINE = """
from opvseg_jax.train.config import base

def get_config():
    config = base()
    config.train.steps = {steps}
    {more}
    return config
"""


@pytest.fixture
def write(tmp_path):
    def at(text: str, **values) -> str:
        path = tmp_path / "mine.py"
        path.write_text(text.format(**{"steps": 7, "more": "", **values}))
        return str(path)

    return at


def test_the_defaults_are_valid():
    assert flat(checked(base())) == flat(base())


def test_a_file_of_ones_own_is_read(write):
    assert load(write(MINE)).train.steps == 7


def test_a_shipped_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(TINY).model.method == "hops"
    assert load("hops/partworld_tiny.py:smoke").train.steps == 2


def test_a_file_in_the_working_folder_is_preferred(tmp_path, monkeypatch, write):
    place = tmp_path / TINY
    place.parent.mkdir(parents=True)
    place.write_text(MINE.format(steps=3, more=""))
    monkeypatch.chdir(tmp_path)
    assert load(TINY).train.steps == 3


def test_the_command_line_changes_what_it_names():
    words = [
        "train.steps=12",
        "--config.train.lr=3e-4",
        "train.remat=true",
        "train.betas=(0.8, 0.99)",
        "eval.protocols=standard,hops",
        "train.milestones=(3,5)",
        "model.options.votes=3",
        "model.options.head.hidden=64",
        "data.folder=",
    ]
    config = load(TINY, words)
    assert (config.train.steps, config.train.lr, config.train.remat) == (12, 3e-4, True)
    assert config.eval.protocols == ("standard", "hops")
    assert config.train.milestones == (3, 5)
    assert config.model.options.to_dict() == {"votes": 3, "head": {"hidden": 64}}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.step=3", "unknown key 'train.step': did you mean 'train.steps'"),
        ("train.steps", "expected group.key=value"),
        ("train.steps=many", "train.steps: expected an int such as 1, got the str 'many'"),
        ("train.steps=3.0", "train.steps: expected an int such as 1, got the float 3.0"),
        ("train.lr=1", "train.lr: expected a float such as 1.0, got the int 1"),
        ("train.remat=1", "train.remat: expected a bool, true or false, got the int 1"),
        ("train.betas=(1, 0.9)", "train.betas: expected a float such as 1.0, got the int 1"),
        ("train.betas=(0.9, 1.0)", "train.betas .*: expected two numbers from 0 to below 1"),
        ("train.steps=0", "train.steps is 0: expected at least 1"),
        ("train.lr=-0.1", "train.lr is -0.1: expected at least 0"),
        ("train.accumulate=4", "train.batch_size 6 is not a multiple of train.accumulate 4"),
        ("train.schedule=cosin", "train.schedule 'cosin' is not known: did you mean 'cosine'"),
        ("train.schedule=multistep", "train.milestones is empty"),
        ("train.milestones=(5,3)", "expected rising steps"),
        ("train.clip.kind=nrm", "train.clip.kind 'nrm' is not known: did you mean 'norm'"),
        ("train.clip=3", "expected a key below it|unknown key 'train.clip'"),
        ("model.method=hop", "model.method 'hop' is not known: did you mean 'hops'"),
        ("model.size=small", "model.size 'small' of hops is not known"),
        ("model.dtype=float8", "model.dtype 'float8' is not known"),
        ("model.options.vote=3", "unknown key 'model.options.vote': did you mean 'votes'"),
        ("model.options.votes=3.5", "model.options.votes: expected int as in 2"),
        ("model.options.attention=eva", "attention must be one of clip, dino, fused"),
        ("model.options.head.width=3", "unknown key 'model.options.head.width'"),
        ("data.name=pascal_part", "data.name 'pascal_part' is not known: did you mean"),
        ("data.name=custom", "data.folder is empty: a custom data set needs its folder"),
        ("data.folder=/no/where", "data.folder /no/where is no folder"),
        ("data.recipe=sqeezed", "data.recipe 'sqeezed' is not known: did you mean 'squeezed'"),
        ("data.recipe_options.sizes=3", "data.recipe_options has no 'sizes' for squeezed"),
        ("data.classes=unseen", "data.classes 'unseen' is not known"),
        ("eval.modes=oracle", "eval.modes: 'oracle' is not known: did you mean 'oracle_obj'"),
        ("eval.protocols=standrd", "'standrd'.*did you mean 'standard'"),
        ("mesh.data=0", "mesh.data is 0"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(word, message):
    with pytest.raises(UserError, match=message):
        load(TINY, [word])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("config.train.lr = 1", "train.lr: expected a float such as 1.0, got the int 1"),
        ("config.train.epochs = 3", "unknown key 'train.epochs'"),
        ("config.train = 3", "train"),
        ("raise KeyError('x')", "mine.py cannot be run: KeyError"),
    ],
)
def test_a_file_with_a_mistake_is_told_too(write, more, message):
    with pytest.raises(UserError, match=message):
        load(write(MINE, more=more))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("configs/hops/partworld_tinny.py", "there is no config .*did you mean 'configs/hops/part"),
        (f"{TINY}:afn", "unknown variant 'afn': did you mean 'afm'"),
    ],
)
def test_an_unknown_config_is_answered_with_the_nearest(spec, message):
    with pytest.raises(UserError, match=message):
        load(spec)


def test_two_mistakes_are_told_at_once():
    with pytest.raises(UserError, match=r"train\.keep.*train\.steps|train\.steps.*train\.keep"):
        load(TINY, ["train.steps=0", "train.keep=0"])


def test_a_config_is_locked():
    config = load(TINY)
    with pytest.raises((AttributeError, KeyError)):
        config.train.epochs = 3


def test_json_gives_the_config_back():
    config = load(TINY, ["model.options.pooling=(1,1)", "train.milestones=(3,5)"])
    again = from_json(to_json(config))
    assert not differences(config, again)
    assert again.train.betas == (0.9, 0.95)
    assert again.is_locked


def test_differences_are_named_by_key():
    changed = load(TINY, ["train.steps=5", "model.options.votes=3"])
    assert differences(load(TINY), changed) == {
        "model.options": ({}, {"votes": 3}),
        "train.steps": (400, 5),
    }
