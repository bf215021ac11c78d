import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.train.checkpoint import Checkpoints
from opvseg_jax.train.checksum import _on_device, checksums


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    trained: dict
    frozen: dict
    stats: dict
    optimizer: Any
    ema: dict | None


def state_of(step: int, rows: int = 8) -> State:
    trained = {
        "head/kernel": jnp.linspace(-1, 1, rows * 6).reshape(rows, 6) * step,
        "head/bias": jnp.full(3, step, jnp.bfloat16),
    }
    optimizer = optax.adam(1e-3)
    _, moments = optimizer.update(trained, optimizer.init(trained))
    frozen = {"clip/kernel": jnp.arange(12.0).reshape(3, 4)}
    return State(jnp.int32(step), trained, frozen, {"norm/mean": jnp.ones(2)}, moments, None)


LIKE = jax.eval_shape(lambda: state_of(1))


def same(a, b) -> bool:
    a, b = jax.tree.flatten(a), jax.tree.flatten(b)
    return a[1] == b[1] and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(a[0], b[0], strict=True)
    )


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder, best="best") as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(step), {"note": step}, {"best": 0.1 * step})
    return folder


@pytest.fixture
def run(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "run")
    return tmp_path / "run"


def test_what_is_restored_is_what_was_saved(two_steps):
    state, metadata = Checkpoints(two_steps).restore(LIKE)
    assert same(state, state_of(2))
    assert metadata == {"note": 2}


def test_frozen_weights_are_stored_once(two_steps):
    text = "".join(path.read_text() for path in two_steps.glob("checkpoints/*/state/_METADATA"))
    assert "head/kernel" in text
    assert "clip/kernel" not in text
    assert (two_steps / "frozen").is_dir()


def test_a_new_folder_has_nothing_to_restore(tmp_path):
    assert Checkpoints(tmp_path / "new").restore(LIKE) is None
    assert not (tmp_path / "new").exists()


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2, best="best") as checkpoints:
        for step, value in enumerate([0.2, 0.9, 0.1, 0.3, 0.4], start=1):
            checkpoints.save(state_of(step), {}, {"best": value})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]


def test_the_state_may_change_after_save_returns(tmp_path):
    state = state_of(3)
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {})
        bump(state.trained)  # its memory is used for something else
    assert same(Checkpoints(tmp_path).restore(LIKE)[0], state_of(3))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = {
    "a flipped bit in the numbers": (flip, "state/d/*"),
    "a truncated file": (truncate, "state/d/*"),
    "a missing file": (lambda path: path.unlink(), "state/d/*"),
    "a flipped bit in the index": (flip, "state/manifest.ocdbt"),
    "changed metadata": (
        lambda path: path.write_text(path.read_text().replace('"note": 2', '"note": 3')),
        "_CHECKPOINT_METADATA",
    ),
    "no metadata": (lambda path: path.unlink(), "_CHECKPOINT_METADATA"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_told_in_one_line_and_the_one_before_it_used(run, caplog, capfd, damage):
    hurt, pattern = DAMAGES[damage]
    hurt(max((run / "checkpoints/2").glob(pattern), key=lambda path: path.stat().st_size))
    with Checkpoints(run, keep=1) as checkpoints, caplog.at_level(logging.WARNING):
        state, metadata = checkpoints.restore(LIKE)
        assert same(state, state_of(1))
        assert metadata == {"note": 1}
        (record,) = caplog.records
        assert f"{run}/checkpoints/2 is damaged" in record.getMessage()
        assert "\n" not in record.getMessage()
        checkpoints.save(state_of(2), {})  # the run comes by again
    assert capfd.readouterr().err.count("Traceback") == 0
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["2", "2.damaged"]
    assert same(Checkpoints(run).restore(LIKE)[0], state_of(2))


def test_an_unfinished_folder_is_no_checkpoint(run):
    (run / "checkpoints/7").mkdir()
    shutil.copytree(run / "checkpoints/2", run / "checkpoints/9.orbax-checkpoint-tmp")
    assert int(Checkpoints(run).restore(LIKE)[0].step) == 2


def test_when_all_are_damaged_nothing_is_begun_anew(run):
    for path in run.glob("checkpoints/*/_CHECKPOINT_METADATA"):
        path.unlink()
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged"):
        Checkpoints(run).restore(LIKE)


def test_broken_metrics_of_the_best_are_mended(run):
    (run / "checkpoints/2/metrics/metrics").write_text("{")
    with Checkpoints(run, keep=1, best="best") as checkpoints:
        checkpoints.save(state_of(3), {}, {"best": 0.05})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    assert json.loads((run / "checkpoints/2/metrics/metrics").read_text()) == {"best": 0.2}


def test_damaged_frozen_weights_are_made_again_if_they_come_out_the_same(run):
    flip(max((run / "frozen/state/d").iterdir(), key=lambda path: path.stat().st_size))
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jnp.zeros(1).sharding), LIKE
    )
    with pytest.raises(UserError, match="frozen weights"):
        Checkpoints(run).restore(like)
    frozen = state_of(1).frozen
    assert same(Checkpoints(run).restore(like, lambda: frozen)[0], state_of(2))
    with pytest.raises(UserError, match="differs from them"):
        Checkpoints(run).restore(like, lambda: {"clip/kernel": frozen["clip/kernel"] + 1})


def test_a_state_of_another_model_is_refused_with_what_differs(run):
    like = jax.eval_shape(lambda: state_of(1, rows=9))
    with pytest.raises(UserError, match=r"head/kernel is float32 \[8, 6\] and should .* \[9, 6\]"):
        Checkpoints(run).restore(like)


def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoints_whole(run, monkeypatch):
    checkpoints = Checkpoints(run)

    class Full:
        def save_async(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(checkpoints, "_open", Full)
    with pytest.raises(UserError, match=r"No space left.*make room"):
        checkpoints.save(state_of(3), {})
    assert same(Checkpoints(run).restore(LIKE)[0], state_of(2))


def test_checksums_do_not_depend_on_devices_and_notice_every_change():
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    values = {
        "float32": x,
        "bfloat16": np.asarray(jnp.asarray(x, jnp.bfloat16)),
        "float64": x.astype(np.float64),
        "int8": (10 * x).astype(np.int8),
        "bool": x > 0,
        "number": np.array(3, np.float32),
    }
    sums = checksums(values)
    with jax.enable_x64(True):
        on_device = {path: int(_on_device(jnp.asarray(value))) for path, value in values.items()}
    assert sums == on_device
    for changed in (x[::-1], x.T.reshape(6, 5), np.where(x == x[2, 3], x + 1e-7, x)):
        assert checksums({"float32": changed})["float32"] != sums["float32"]


ONTO_EIGHT = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from opvseg_jax.train.checkpoint import Checkpoints
from train.test_checkpoint import LIKE, same, state_of

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))

def place(leaf):
    cut = P("fsdp") if leaf.shape == (8, 6) else P()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, cut))

with Checkpoints(sys.argv[1]) as checkpoints:
    state, _ = checkpoints.restore(jax.tree.map(place, LIKE))
    shards = state.trained["head/kernel"].addressable_shards
    assert [shard.data.shape for shard in shards] == [(2, 6)] * 8
    assert same(state, state_of(2))
    one_more = state.trained | {"head/bias": state.trained["head/bias"] + 1}
    import dataclasses
    after = dataclasses.replace(state, step=state.step + 1, trained=one_more)
    checkpoints.save(after, {"note": 3})
"""


def test_a_state_of_one_device_is_restored_onto_eight_and_back(run):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-c", ONTO_EIGHT, run], env=environment, check=True)
    state, metadata = Checkpoints(run).restore(LIKE)
    assert metadata == {"note": 3}
    assert np.all(state.trained["head/bias"] == 3)
    assert same(state.optimizer, state_of(2).optimizer)
