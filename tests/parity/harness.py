"""Finds cases, runs the program of their kind, compares every tensor that the reference recorded.

A case is `<method>/<name>.safetensors` with `<name>.json`. Its tensors are `w.*` (weights under
their published names), `in.*`, `mid.*` and `out.*`. A program gets a `Case` and returns
`{tensor name: array}`; what the case records and the program does not return is a failure, and so
is an input that the program never read: it may change what the outputs mean.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

HERE = Path(__file__).parent
LINES = pytest.StashKey[dict]()  # {case: what the summary says of it}
NETWORK, LAYER, STEP = 1e-4, 1e-5, 1e-2  # of the tensor's range
# The recorded gradients are float32: they and their norms are up to 3e-4 away from the same program
# in float64 (CAT-Seg's step, upstream of the normalisation of the features).
GRADIENT = 2e-3
COUNTED = 1e-9  # figures that follow from counts, in float64

# The kinds that must run. Those of PLANNED are known and reported as not implemented; any other
# kind is one that this harness does not understand, which is a failure.
CLAIMED = {
    "pcaseg": {"aggregation_layer", "decoder", "epl", "eva_clip", "full", "head", "train_step"},
    "catseg": {"aggregation_layer", "decoder", "full", "head", "train_step"},
    "clip": {"towers"},
    "clip_hf": {"towers"},
    "dinov2": {"backbone"},
    "deop": {"clip_visual", "eval_metrics", "text_prompt"},
    "hops": {"aem", "aggregator", "full", "fusion_afm", "metrics", "paper_reading", "regions"},
    "langhops": {"semseg_metric"},
    "metrics": {
        *("instance_ap", "oracle_mask", "proposals", "resize_chain", "semseg"),
        *("parts_ade234", "parts_partimagenet147", "parts_pascal116"),
    },
    "partcatseg": {"aggregator", "full", "metrics"},
}
PLANNED = {
    "cliper": "decision dino_v1 fgc fused_attention pipeline preprocess proxy_last_block sd_tiny "
    "text_classifier visual visual_slide visual_v1",
    "deop": "deop_full heatmap_decoder mask_proposal_stage2 stage1_prompt_learning",
    "langhops": "criterion e2e_eval e2e_train mllm msda object_decoder object_decoder_train_dn "
    "part_decoder part_query_init pixel_decoder pixel_decoder_fusion postprocess primitives "
    "resnet50 swin text",
}


class Tensors(Mapping):
    """The tensors of a case; remembers which were read."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays, self.read = dict(arrays), set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self._arrays[name]

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays


@dataclasses.dataclass
class Case:
    """One recorded run of a reference."""

    name: str
    about: dict  # the JSON
    tensors: Tensors

    @property
    def config(self) -> dict:
        return self.about["config"]

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        """All tensors `prefix*`, with the prefix taken off."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name[len(prefix) :]: self.tensors[name] for name in names}

    def wanted(self) -> list[str]:
        """What a program must reproduce."""
        return [name for name in self.tensors if name.startswith(("mid.", "out."))]


@dataclasses.dataclass(frozen=True)
class Program:
    run: Callable[[Case], Mapping[str, np.ndarray]]
    layers: tuple[str, ...]  # patterns of tensors that lie one layer behind the input
    counted: tuple[str, ...] = ()  # patterns of tensors that follow from counts

    def tolerance(self, name: str) -> float:
        if any(fnmatchcase(name, pattern) for pattern in self.counted):
            return COUNTED
        if "grad_norm." in name or name.startswith("out.grad."):
            return GRADIENT
        if re.fullmatch(r"out\.step\d+_delta\..*", name):
            return STEP  # Adam divides small gradients by small gradients
        return LAYER if any(fnmatchcase(name, pattern) for pattern in self.layers) else NETWORK


PROGRAMS: dict[tuple[str, str], Program] = {}


def register(
    method: str, kind: str, *, layers: tuple[str, ...] = (), counted: tuple[str, ...] = ()
):
    """Makes a function the program of a kind of case."""

    def add(run):
        if (method, kind) in PROGRAMS:
            raise ValueError(f"{method}/{kind} has two programs")
        PROGRAMS[method, kind] = Program(run, layers, counted)
        return run

    return add


def golden_folder() -> Path:
    return Path(os.environ.get("OPVSEG_GOLDEN") or HERE / "golden")


def find_cases(folder: Path) -> list[Path]:
    """The tensor files of all cases, `<folder>/<method>/<name>.safetensors`."""
    return sorted(folder.glob("*/*.safetensors"))


def load_case(path: Path) -> Case:
    about = json.loads(path.with_suffix(".json").read_text())
    tensors = load_file(path) | figures_in(about)
    return Case(f"{path.parent.name}/{path.stem}", about, Tensors(tensors))


def figures_in(about: dict) -> dict[str, np.ndarray]:
    """The results that stand in the JSON alone, as `out.results.*`; null is NaN.

    They are numbers below "results" or "metrics"; lists of numbers are no results.
    """
    found = {}

    def walk(name: str, value) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}", inner)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                if isinstance(inner, dict):
                    walk(f"{name}.{index}", inner)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[name] = np.array(np.nan if value is None else value, np.float64)

    for key in ("results", "metrics"):
        if isinstance(about.get(key), dict):
            walk("out.results", about[key])
    return found


def compare(case: Case, program: Program) -> tuple[str, list[str]]:
    """Runs a case -> a line on its worst tensor, and everything that is wrong with it."""
    with jax.default_matmul_precision("highest"):
        got = {name: np.asarray(value) for name, value in program.run(case).items()}
    problems, worst = [], (-1.0, 0.0, "nothing")
    for name in case.wanted():
        if name not in got:
            problems.append(f"{name}: recorded, but the program does not compute it")
            continue
        want, tolerance = case.tensors[name], program.tolerance(name)
        if got[name].shape != want.shape:
            problems.append(f"{name}: expected {list(want.shape)}, got {list(got[name].shape)}")
            continue
        measure = functools.partial(noise, case) if is_noise(case, name) else relative_error
        error = measure(got[name], want)
        worst = max(worst, (error / tolerance, error, name))
        if not error <= tolerance:
            problems.append(f"{name}: {error:.1e} of its range, allowed {tolerance:.0e}")
    problems += [f"{name}: never read" for name in _unread(case)]
    return f"worst {worst[1]:.1e} of the range, at {worst[2]}", problems


def is_noise(case: Case, name: str) -> bool:
    """Whether the recorded gradient is mathematically zero, so that its value is rounding alone."""
    parameter = name.removeprefix("out.grad_norm.").removeprefix("out.grad.")
    return parameter in case.about.get("noisy_gradients", ())


def noise(case: Case, got: np.ndarray, want: np.ndarray) -> float:
    """How far from zero either side is, against the norm of the whole gradient."""
    size = max(np.linalg.norm(got), np.linalg.norm(want))
    return float(size / case.tensors["out.total_grad_norm"])


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error as a share of the range of `want`; whole numbers must be equal."""
    if not want.size:
        return 0.0
    if not np.issubdtype(want.dtype, np.floating):
        return 0.0 if np.array_equal(got, want) else np.inf
    want, got = want.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return np.inf
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    span = np.ptp(want[finite]) or np.abs(want[finite]).max() or 1.0
    return float(np.abs(got[finite] - want[finite]).max() / span)


def _unread(case: Case) -> list[str]:
    results = case.wanted()
    return sorted(case.tensors.keys() - case.tensors.read - set(results))
