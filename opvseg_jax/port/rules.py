"""Two-way tables between published tensor names and our leaf paths.

A table is an ordered sequence of `Take` and `Skip`. Names are templates: `{i}` stands for a number,
and the same letter means the same number on both sides. A `Skip` may also use `*` for any text.

    CLIP_VISION = (
        Take("visual.conv1.weight", "patch/kernel", CONV2D),
        Take(
            "visual.transformer.resblocks.{i}.attn.in_proj_weight",
            ("blocks/{i}/query/kernel", "blocks/{i}/key/kernel", "blocks/{i}/value/kernel"),
            FUSED_QKV,
        ),
        Skip("visual.input_resolution", "a size, not a weight"),
    )

`convert` goes from a published file to our leaves, `publish` back.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.errors import UserError


class Layout(NamedTuple):
    """How one published array becomes the arrays of its leaves, and back."""

    forward: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    inverse: Callable[..., np.ndarray]


SAME = Layout(lambda x: (x,), lambda x: x)


class Take(NamedTuple):
    """The published array `source` fills the leaves `targets` (one template or several)."""

    source: str
    targets: str | tuple[str, ...]
    layout: Layout = SAME

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.targets,) if isinstance(self.targets, str) else self.targets


class Skip(NamedTuple):
    """Published arrays that no leaf needs, and the reason."""

    source: str
    why: str


Rules = Sequence[Take | Skip]


def _axes(*order: int) -> Layout:
    """The array with its axes in this order; an array of another rank does not fit."""
    back = tuple(np.argsort(order))
    return Layout(lambda x: (np.transpose(x, order),), lambda x: np.transpose(x, back))


def drop_leading(count: int) -> Layout:
    """`[1, ..., 1, *shape]` with `count` leading ones <-> `shape`."""

    def forward(x: np.ndarray) -> tuple[np.ndarray]:
        if x.ndim < count or x.shape[:count] != (1,) * count:
            raise ValueError(f"expected {count} leading axes of size 1, got {list(x.shape)}")
        return (x.reshape(x.shape[count:]),)

    return Layout(forward, lambda x: x.reshape((1,) * count + x.shape))


def fused(parts: int, *, transpose: bool) -> Layout:
    """One array whose rows are those of `parts` layers <-> one array for each layer."""

    def turn(x: np.ndarray) -> np.ndarray:
        return np.transpose(x, (1, 0)) if transpose else x

    def forward(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(turn(part) for part in np.split(x, parts, axis=0))

    return Layout(forward, lambda *each: np.concatenate([turn(x) for x in each], axis=0))


LINEAR = _axes(1, 0)  # [out, in] <-> [in, out]
CONV2D = _axes(2, 3, 1, 0)  # [O, I, h, w] <-> [h, w, I, O]
# [I, O, h, w] <-> [h, w, O, I], for nnx.ConvTranspose(transpose_kernel=True): no flip is needed.
CONV_TRANSPOSE2D = _axes(2, 3, 1, 0)
FUSED_QKV = fused(3, transpose=True)  # [3C, C] <-> three [C, C], each [in, out]
FUSED_QKV_BIAS = fused(3, transpose=False)  # [3C] <-> three [C]
FUSED_PAIR = fused(2, transpose=True)  # [2H, C] <-> two [C, H]
FUSED_PAIR_BIAS = fused(2, transpose=False)  # [2H] <-> two [H]
SQUEEZE = drop_leading(1)  # [1, ...] <-> [...]
SQUEEZE2 = drop_leading(2)  # [1, 1, ...] <-> [...]


def convert(
    rules: Rules,
    source: Mapping[str, np.ndarray],
    want: Mapping[str, object],
    dtype=np.float32,
    place: Callable[[np.ndarray], object] = lambda leaf: leaf,
) -> dict[str, np.ndarray]:
    """Published arrays -> leaves. All or nothing.

    `want` is `{leaf path: shape}`, or what has a `.shape`. Arrays are read from `source` one at a
    time, so a lazy mapping never lies in memory beside the result. Floating-point leaves come out
    in `dtype` (None keeps that of the file), each in memory of its own, and go through `place`
    (`jax.device_put`, say) before the next is read.
    """
    leaves, claimed, problems = {}, set(), []
    for name in source:
        matches = [(rule, numbers) for rule in rules if (numbers := _match(rule.source, name))]
        if len(matches) != 1:
            what = "no rule knows it" if not matches else f"{len(matches)} rules match it"
            problems.append(f"{name}: unexpected, {what}")
            continue
        rule, numbers = matches[0]
        if isinstance(rule, Skip):
            continue
        paths = [_fill(template, numbers) for template in rule.paths]
        problems += [f"{path}: filled twice, last by {name}" for path in paths if path in claimed]
        claimed.update(paths)
        try:
            values = rule.layout.forward(np.asarray(source[name]))
        except ValueError as error:
            problems.append(f"{name}: misshapen, {error}")
            continue
        for path, value in zip(paths, values, strict=True):
            if problem := _misfit(name, path, value, want):
                problems.append(problem)
            else:
                leaves[path] = place(_own(value, dtype))
    problems += [f"{path}: missing, nothing in the file fills it" for path in want.keys() - claimed]
    _raise_all(problems, "the weights do not fit the model")
    return leaves


def publish(rules: Rules, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves -> published arrays, the inverse of `convert`; contiguous, ready to be saved.

    Where a table knows several published names for one leaf, the first is written.
    """
    published, used, problems = {}, set(), []
    for rule in rules:
        if isinstance(rule, Skip):
            continue
        for numbers in _bindings(rule, leaves, used):
            paths = [_fill(template, numbers) for template in rule.paths]
            name = _fill(rule.source, numbers)
            if absent := [path for path in paths if path not in leaves]:
                problems.append(f"{name}: missing the leaves {', '.join(absent)}")
                continue
            used.update(paths)
            arrays = [np.asarray(leaves[path]) for path in paths]
            published[name] = np.asarray(rule.layout.inverse(*arrays), order="C")
    problems += [f"{path}: no rule publishes it" for path in leaves if path not in used]
    _raise_all(problems, "the leaves cannot be published")
    return published


def _misfit(name: str, path: str, value: np.ndarray, want: Mapping) -> str | None:
    if path not in want:
        return f"{name}: unexpected, the model has no leaf {path}"
    shape = tuple(getattr(want[path], "shape", want[path]))
    if value.shape != shape:
        return f"{name} -> {path}: misshapen, model {list(shape)}, file {list(value.shape)}"
    return None


def _own(value: np.ndarray, dtype) -> np.ndarray:
    """A contiguous copy: what it was read from can be freed, closed or overwritten."""
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    return np.array(value, dtype=dtype if floating else None, order="C")


def _bindings(rule: Take, leaves: Mapping, used: set[str]) -> list[dict[str, str]]:
    """The numbers for which any leaf of the rule exists that no earlier rule has published."""
    found = {}
    for template in rule.paths:
        for path in leaves:
            if path not in used and (match := _match(template, path)):
                numbers = match.groupdict()
                found.setdefault(tuple(sorted(numbers.items())), numbers)
    return list(found.values())


def _match(template: str, name: str) -> re.Match | None:
    return _pattern(template).fullmatch(name)


@functools.cache
def _pattern(template: str) -> re.Pattern:
    seen, parts = set(), []
    for part in re.split(r"(\{\w+\}|\*)", template):
        if part == "*":
            parts.append(".*")
        elif part.startswith("{"):
            letter = part[1:-1]
            parts.append(f"(?P={letter})" if letter in seen else rf"(?P<{letter}>\d+)")
            seen.add(letter)
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))


def _fill(template: str, numbers: re.Match | Mapping[str, str]) -> str:
    values = numbers.groupdict() if isinstance(numbers, re.Match) else numbers
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], template)


def _raise_all(problems: list[str], headline: str) -> None:
    if problems:
        listing = "\n  ".join(sorted(problems))
        raise UserError(f"{headline}, {len(problems)} problems:\n  {listing}")
