"""What all tests share: a cache folder of their own, and one loaded tiny model."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Nothing is read from the user's cache or left in it; subprocesses inherit the folder."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("OPVSEG_CACHE")
    os.environ["OPVSEG_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["OPVSEG_CACHE"]
    else:
        os.environ["OPVSEG_CACHE"] = before


@pytest.fixture(scope="session")
def tiny(cache_folder):
    """The shipped model, loaded and compiled once."""
    from opvseg_jax.hub.load import load

    return load("tiny")


@pytest.fixture(scope="session")
def tiny_words():
    from opvseg_jax.pipeline.partworld import vocabulary

    return vocabulary()
