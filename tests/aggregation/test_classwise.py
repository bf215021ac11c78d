"""The kinds of class attention against their formulas written out, and gathered in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.aggregation.attention_kinds import ATTENTION_KINDS, Pads
from opvseg_jax.aggregation.classwise import ClassLayer

B, T, N, K, D = 2, 6, 3, 2, 4
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture
def qkv() -> list[np.ndarray]:
    return list(np.random.default_rng(0).standard_normal((3, B, T, N, K, D)).astype(np.float32))


def _written_out(kind: str, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One image, pixel and head at a time: q, k, v [T, D] -> [T, D]."""
    if kind == "linear":
        q, k = (np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) for x in (q, k))
        return (q @ (k.T @ v)) / (q @ k.sum(axis=0) + 1e-6)[:, None]
    shares = np.exp(q @ k.T / np.sqrt(D))
    if kind == "full":
        return shares / shares.sum(axis=1, keepdims=True) @ v
    shares = shares / shares.sum(axis=0, keepdims=True) + 1e-8
    return shares / shares.sum(axis=1, keepdims=True) @ v


def _expected(kind: str, q, k, v, real) -> np.ndarray:
    out = np.zeros_like(q)
    for b, n, head in np.ndindex(B, N, K):
        picked = [x[b, real, n, head].astype(np.float64) for x in (q, k, v)]
        out[b, real, n, head] = _written_out(kind, *picked)
    return out


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_each_kind_computes_its_formula_over_the_real_classes(kind, qkv):
    real = np.array([True, True, False, True, True, False])
    attention = ATTENTION_KINDS[kind]
    mask = jnp.broadcast_to(real, (B, T))
    answer = attention.answer(qkv[0], attention.summarise(*qkv, mask), None)
    np.testing.assert_allclose(answer[:, real], _expected(kind, *qkv, real)[:, real], **CLOSE)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_contributions_gathered_in_chunks_are_those_of_all_classes(kind, qkv):
    attention, mask = ATTENTION_KINDS[kind], jnp.ones((B, T), bool)
    parts = [
        attention.summarise(*(x[:, start : start + 2] for x in qkv), mask[:, start : start + 2])
        for start in range(0, T, 2)
    ]
    total = attention.empty(parts[0], T)
    for index, part in enumerate(parts):
        total = attention.gather(total, part, 2 * index)
    got = attention.answer(qkv[0][:, 1:3], total, None)
    np.testing.assert_allclose(got, _expected(kind, *qkv, np.ones(T, bool))[:, 1:3], **CLOSE)


@pytest.mark.parametrize("kind", ["linear", "full"])
@pytest.mark.parametrize("copies", [0, 1, 5])
def test_copies_of_a_padding_class_count_as_if_they_were_written_out(kind, copies, qkv):
    q, k, v = qkv
    key, value = k[0, 0, 0], v[1, 1, 1]  # [K, D]
    attention = ATTENTION_KINDS[kind]
    pads = Pads(jnp.asarray(key), jnp.asarray(value), jnp.full(B, float(copies)))
    summary = attention.summarise(q, k, v, jnp.ones((B, T), bool))
    got = attention.answer(q, summary, pads)
    written = [
        np.concatenate([x, np.broadcast_to(pad, (B, copies, N, K, D))], axis=1)
        for x, pad in ((k, key), (v, value))
    ]
    everyone = attention.summarise(None, *written, jnp.ones((B, T + copies), bool))
    np.testing.assert_allclose(got, attention.answer(q, everyone, None), **CLOSE)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="linear, full, query"):
        jax.eval_shape(lambda: ClassLayer(8, 4, 2, kind="sparse", rngs=nnx.Rngs(0)) and None)


def test_query_attention_has_no_padding():
    with pytest.raises(ValueError, match="pad_to=0"):
        jax.eval_shape(lambda: ClassLayer(8, 4, 2, kind="query", pad_to=4, rngs=nnx.Rngs(0)))
