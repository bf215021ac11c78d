"""Photos of the tiny world, and the command as it is typed."""

import subprocess
import sys

import pytest
from PIL import Image

from opvseg_jax.cli.main import main
from opvseg_jax.pipeline.partworld import PartWorld


@pytest.fixture(scope="session")
def scenes():
    return [scene.image for scene in PartWorld("val_seen", size=96, num_images=4)]


@pytest.fixture
def photos(tmp_path, scenes):
    """A folder with four photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(scenes):
        Image.fromarray(image).save(folder / f"p{i}.png")
    return folder


@pytest.fixture
def opvseg(monkeypatch, capsys, tiny):
    """Runs a command in this process, with the tiny model that is loaded already.

    -> exit code, what was printed, what was said on stderr.
    """

    def run(*words) -> tuple[int, str, str]:
        monkeypatch.setattr("opvseg_jax.hub.load.load", lambda ref, **options: tiny)
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def typed():
    """Starts the real command in a process of its own."""

    def start(*words, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "opvseg_jax", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start
