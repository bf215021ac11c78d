"""Every config of the repository is valid in every variant, and its tables fit its model."""

import ast
import re
from pathlib import Path

import pytest

from opvseg_jax.core.assets import config_file
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.hub.sizes import TINY, makeup
from opvseg_jax.hub.trained import METHODS, size_of
from opvseg_jax.train.config import load

FILES = sorted(config_file().glob("*/*.py"))
ALWAYS = ("paper", "tiny", "smoke")


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def variants_of(path: Path) -> list[str]:
    """Those that the file names itself, read off its last line."""
    tree = ast.parse(path.read_text())
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Return)).value
    named = [word.arg for word in call.keywords if word.arg]
    tables = {target.id: node.value for node in tree.body if isinstance(node, ast.Assign)
              for target in node.targets}  # fmt: skip
    starred = [word.value.id for word in call.keywords if word.arg is None]
    return named + [key.value for table in starred for key in tables[table].keys]


def test_there_is_a_config_for_every_published_run():
    wanted = {
        "catseg": {"coco_stuff_b16", "coco_stuff_l14"},
        "pcaseg": {
            "coco_stuff_b16",
            "coco_stuff_l14",
            "pascal_part_116_b16",
            "ade20k_part_234_b16",
        },
        "partcatseg": {"pascal_part_116_b16", "ade20k_part_234_b16", "partimagenet_b16"},
        "hops": {"partimagenet_b16", "pascal_part_116_b16", "ade20k_part_234_b16"},
    }
    found = {name_of(path) for path in FILES}
    assert {f"{m}/{name}" for m, names in wanted.items() for name in names} <= found
    assert {f"{method}/partworld_tiny" for method in wanted} <= found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_variant_loads_and_says_what_it_is(path):
    for variant in (*ALWAYS, *variants_of(path)):
        config = load(f"{path}:{variant}")
        assert config.model.method in path.parent.name or path.parent.name in config.model.method
        if variant in ("tiny", "smoke"):
            assert (config.model.size, config.data.name) == (TINY, "partworld")
        else:
            assert path.stem.startswith(config.data.name.removesuffix("_171"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_docstring_has_the_source_and_a_command_that_runs_this_file(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert re.search(r"^Source: ", text, re.M)
    commands = re.findall(r"--config (\S+)", text)
    assert commands
    for command in commands:
        load(command)
        assert command.partition(":")[0] == f"configs/{name_of(path)}.py"
    assert "Expected:" in text or "partworld" in path.stem


PUBLISHED = [path for path in FILES if "partworld" not in path.stem]


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_the_tables_of_a_published_run_fit_every_leaf(path):
    for variant in ("paper", *variants_of(path)):
        model = load(f"{path}:{variant}").model
        size = size_of(model.method, model.size, model.options.to_dict())
        made = makeup(model.method)
        build = METHODS[model.method].method
        leaves = blueprint(lambda: build(size, rngs=ShapeRngs())).shapes  # noqa: B023
        for table in (made.learning_rates(size), made.weight_decay):
            used = {next(p for p, _ in table if re.fullmatch(p, path)) for path in leaves}
            assert used == {pattern for pattern, _ in table}
        assert isinstance(size.clip, EvaClipSize) == (
            "/coco" in str(path) and "pcaseg" in str(path)
        )
