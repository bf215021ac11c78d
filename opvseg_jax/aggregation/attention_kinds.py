"""Three ways in which classes attend to each other, each of them exact when gathered in chunks.

linear: phi(q) (sum phi(k) v^T) / (phi(q) sum phi(k) + 1e-6), phi = elu + 1: two sums over T.
full:   softmax over keys. The keys and values of all classes are gathered.
query:  softmax over queries, plus 1e-8, then every row divided by its sum over keys.

Sums over T stay in float32: with many classes bf16 loses the small terms.

Shapes: B images, T classes (L of them ask), N pixels, K heads, D channels of one.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

NEVER = -1e30  # a score that no softmax lets through, and whose gradient is finite


class Summary(NamedTuple):
    """What is known of all classes: their number [B], and one or two arrays for each kind."""

    count: jax.Array
    arrays: tuple[jax.Array, ...]


class Pads(NamedTuple):
    """Copies of one padding class: key [K, D], value [K, D], how many [B]."""

    key: jax.Array
    value: jax.Array
    count: jax.Array


class AttentionKind(Protocol):
    """How contributions of classes are made, gathered and answered from."""

    pads: bool
    summarises_queries: bool

    def summarise(
        self, q: jax.Array | None, k: jax.Array, v: jax.Array, mask: jax.Array
    ) -> Summary:
        """q, k, v [B, T, N, K, D], mask [B, T]."""
        ...

    def empty(self, part: Summary, num_classes: int) -> Summary:
        """Nothing gathered yet; `part` is the shape of what one chunk contributes."""
        ...

    def gather(self, total: Summary, part: Summary, start: jax.Array) -> Summary:
        """The contribution of the classes from `start` on is added."""
        ...

    def answer(self, q: jax.Array, summary: Summary, pads: Pads | None) -> jax.Array:
        """q [B, L, N, K, D] -> [B, L, N, K, D] in float32."""
        ...


class Linear:
    """Its summary does not grow with the classes."""

    pads = True
    summarises_queries = False

    def summarise(
        self, q: jax.Array | None, k: jax.Array, v: jax.Array, mask: jax.Array
    ) -> Summary:
        k = _phi(k) * mask[:, :, None, None, None].astype(k.dtype)
        products = jnp.einsum("btnkd,btnke->bnkde", k, v, preferred_element_type=_wide(k))
        return Summary(_count(mask), (products, k.sum(axis=1, dtype=_wide(k))))

    def empty(self, part: Summary, num_classes: int) -> Summary:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), part)

    def gather(self, total: Summary, part: Summary, start: jax.Array) -> Summary:
        return jax.tree.map(jnp.add, total, part)

    def answer(self, q: jax.Array, summary: Summary, pads: Pads | None) -> jax.Array:
        q = _phi(q).astype(_wide(q))
        products, keys = summary.arrays
        if pads is not None:
            key, value, count = pads
            key = _phi(key).astype(_wide(key))
            each = jnp.einsum("kd,ke->kde", key, value.astype(_wide(value)))
            products = products + count[:, None, None, None, None] * each
            keys = keys + count[:, None, None, None] * key
        total = jnp.einsum("btnkd,bnkd->btnk", q, keys) + 1e-6
        return jnp.einsum("btnkd,bnkde->btnke", q, products) / total[..., None]


class _Gathered:
    """The arrays of all classes are kept side by side; masked classes are marked."""

    def empty(self, part: Summary, num_classes: int) -> Summary:
        shapes = [(leaf.shape[0], num_classes, *leaf.shape[2:]) for leaf in part.arrays]
        arrays = tuple(
            jnp.zeros(shape, leaf.dtype) for shape, leaf in zip(shapes, part.arrays, strict=True)
        )
        return Summary(jnp.zeros(part.count.shape, part.count.dtype), arrays)

    def gather(self, total: Summary, part: Summary, start: jax.Array) -> Summary:
        arrays = tuple(
            jax.lax.dynamic_update_slice_in_dim(whole, piece, start, axis=1)
            for whole, piece in zip(total.arrays, part.arrays, strict=True)
        )
        return Summary(total.count + part.count, arrays)


class Full(_Gathered):
    """Ordinary attention."""

    pads = True
    summarises_queries = False

    def summarise(
        self, q: jax.Array | None, k: jax.Array, v: jax.Array, mask: jax.Array
    ) -> Summary:
        return Summary(_count(mask), (k, v, mask.astype(jnp.float32)))

    def answer(self, q: jax.Array, summary: Summary, pads: Pads | None) -> jax.Array:
        k, v, mask = summary.arrays
        scores = _scores(q, k) + jnp.where(mask > 0, 0.0, NEVER)[:, None, None, None]
        v = v.astype(_wide(v))
        if pads is None:
            return jnp.einsum("bnklt,btnkd->blnkd", jax.nn.softmax(scores, axis=-1), v)
        key, value, count = pads
        # One key with the weight of all copies: the log of their number is added to its score.
        alike = jnp.einsum("blnkd,kd->bnkl", q.astype(_wide(q)), key.astype(_wide(key)))
        weight = jnp.where(count > 0, jnp.log(jnp.maximum(count, 1.0)), NEVER)
        alike = alike * q.shape[-1] ** -0.5 + weight[:, None, None, None]
        weights = jax.nn.softmax(jnp.concatenate([scores, alike[..., None]], axis=-1), axis=-1)
        mixed = jnp.einsum("bnklt,btnkd->blnkd", weights[..., :-1], v)
        padded = jnp.einsum("bnkl,kd->blnkd", weights[..., -1], value.astype(_wide(value)))
        return mixed + padded


class Query(_Gathered):
    """Every key hands out one unit to the queries; then the rows are made to sum to one."""

    pads = False
    summarises_queries = True

    def summarise(
        self, q: jax.Array | None, k: jax.Array, v: jax.Array, mask: jax.Array
    ) -> Summary:
        return Summary(_count(mask), (q, k, v, mask.astype(jnp.float32)))

    def answer(self, q: jax.Array, summary: Summary, pads: Pads | None) -> jax.Array:
        every, k, v, mask = summary.arrays
        barred = jnp.where(mask > 0, 0.0, NEVER)[:, None, None, :, None]
        # The log of what each key hands out: over all queries, whichever of them ask here.
        unit = jax.nn.logsumexp(_scores(every, k) + barred, axis=-2, keepdims=True)
        shares = (jnp.exp(_scores(q, k) - unit) + 1e-8) * mask[:, None, None, None]
        shares = shares / shares.sum(axis=-1, keepdims=True)
        return jnp.einsum("bnklt,btnkd->blnkd", shares, v.astype(_wide(v)))


ATTENTION_KINDS: dict[str, AttentionKind] = {"linear": Linear(), "full": Full(), "query": Query()}


def _wide(x: jax.Array):
    """float32, or float64 where x is."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _phi(x: jax.Array) -> jax.Array:
    return jax.nn.elu(x) + 1


def _count(mask: jax.Array) -> jax.Array:
    return mask.sum(axis=1, dtype=jnp.float32)


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """q [B, L, N, K, D], k [B, T, N, K, D] -> [B, N, K, L, T] in float32."""
    scaled = q * q.shape[-1] ** -0.5
    return jnp.einsum("blnkd,btnkd->bnklt", scaled, k, preferred_element_type=_wide(q))
