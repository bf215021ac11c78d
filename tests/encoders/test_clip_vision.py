"""The image tower: what its dense forms promise, whatever the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.core.weights import blueprint, flatten
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.prompts import VisualPrompts
from opvseg_jax.encoders.severance import Gps, GpsMask, Mps

SIZE = {
    "image_size": 16,
    "patch_size": 4,
    "width": 24,
    "num_layers": 3,
    "num_heads": 3,
    "mlp_dim": 48,
    "embed_dim": 8,
}


def build(dtype=None):
    return ClipVision(**SIZE, dtype=dtype, rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def tower():
    return build()


def images(b=2, height=16, width=24):
    return jax.random.normal(jax.random.key(0), (b, height, width, 3))


PLAN = blueprint(build)


def compiled(method):
    """method(tower, ...) as one program; weights are arguments, since constants compile slowly."""
    return jax.jit(lambda leaves, *args: method(PLAN.merge(leaves), *args))


def dense(tower, x, **options):
    return compiled(lambda tower, x: tower.dense(x, **options))(flatten(tower), x)


def close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def apart(a, b):
    assert max(np.abs(x - y).max() for x, y in zip(a, b, strict=True)) > 1e-2


def test_any_size_gives_a_vector_and_a_grid(tower):
    cls, patches = dense(tower, images(2, 20, 12))
    assert cls.shape == (2, 8)
    assert patches.shape == (2, 5, 3, 8)


def test_the_rest_of_the_batch_does_not_matter(tower):
    x = images(3)
    run, leaves = compiled(lambda tower, x: (tower.pooled(x), tower.dense(x)[1])), flatten(tower)
    together, alone = run(leaves, x), run(leaves, x[2:])
    close([out[2:] for out in together], list(alone))


def test_pooled_is_the_class_token_of_the_plain_tower(tower):
    pooled = compiled(lambda tower, x: tower.pooled(x))(flatten(tower), images())
    close(pooled, dense(tower, images(), last="plain")[0])


def test_alpha_leads_from_attention_to_the_value_path(tower):
    """1e-7 is the mixed formula, where 0 and 1 are shortcuts."""

    def all_alphas(tower, x):
        alphas = {alpha: {-1: Gps(alpha)} for alpha in (0.0, 1e-7, 1.0)}
        by_alpha = {alpha: tower.dense(x, severance=s) for alpha, s in alphas.items()}
        return by_alpha, tower.dense(x, last="plain"), tower.dense(x, last="value_residual")

    by_alpha, plain, value = compiled(all_alphas)(flatten(tower), images())
    close(by_alpha[0.0], plain)
    close(by_alpha[1e-7], plain)
    close(by_alpha[1.0], value)
    apart(plain, value)


def test_each_layer_has_its_own_alpha(tower):
    x = images()
    one, both = {-1: Gps(1.0)}, {-2: Gps(0.5), -1: Gps(1.0)}
    apart(dense(tower, x, severance=one), dense(tower, x, severance=both))
    close(dense(tower, x, severance={-2: Gps(0.0), -1: Gps(1.0)}), dense(tower, x, severance=one))


def test_without_severed_attention_patches_do_not_see_each_other(tower):
    """With every block severed a patch of the output depends on its own pixels alone."""
    x = images(1)
    changed = x.at[:, 8:, 8:].add(1.0)
    severed = {layer: Gps() for layer in range(3)}
    before, after = (dense(tower, y, severance=severed)[1] for y in (x, changed))
    close(before[:, :2], after[:, :2], atol=1e-6)
    apart(before[:, 2:, 2:], after[:, 2:, 2:])


def test_masks_gain_and_gather(tower):
    """Logits that saturate: a gain of Q everywhere, or shared masks only within one half."""
    x = images(1)
    all_on = jnp.full((1, 16, 24, 5), 50.0)
    halves = jnp.where(jnp.arange(24)[None, None, :, None] < 12, 50.0, -50.0)
    halves = jnp.broadcast_to(jnp.concatenate([halves, -halves], -1), (1, 16, 24, 2))
    apart(dense(tower, x, severance={-1: GpsMask(all_on)}), dense(tower, x, severance={-1: Gps()}))
    changed = x.at[:, :, 12:].add(1.0)
    # Eight copies of each mask make the softmax of P P^T blind for the other half.
    sharp = {-1: Mps(jnp.concatenate([halves] * 40, -1))} | {0: Gps(), 1: Gps()}
    before, after = (dense(tower, y, severance=sharp)[1] for y in (x, changed))
    close(before[:, :, :3][:, 1:], after[:, :, :3][:, 1:], atol=1e-4)


def test_shortcut_scales_the_residual(tower):
    apart(
        dense(tower, images(), severance={-1: Gps(shortcut=0.2)}),
        dense(tower, images(), last="gps"),
    )


def test_a_fully_severed_tower_computes_no_attention(tower):
    """No softmax, and no query or key projection, in the program."""

    def program(**options):
        run = compiled(lambda tower, x: tower.dense(x, **options))
        return run.lower(flatten(tower), images()).as_text()

    severed = program(severance={layer: Gps() for layer in range(3)})
    plain = program(last="plain")
    tokens = 1 + 4 * 6
    assert f"{tokens}x{tokens}xf32" in plain
    assert f"{tokens}x{tokens}xf32" not in severed
    # Of a block's six products (q, k, v, out, up, down) four remain, and no q k^T, no map times v.
    assert plain.count("dot_general") - severed.count("dot_general") == 3 * 4


def test_taps_are_what_the_blocks_saw(tower):
    x = images()
    run = compiled(lambda tower, x: tower.encode(x, hidden=(-1, 0, 2), attention=(1,)))
    encoded = run(flatten(tower), x)
    assert sorted(encoded.hidden) == [-1, 0, 2]
    close(encoded.hidden[2], encoded.tokens, atol=0)
    first = compiled(lambda tower, x: tower.blocks[0](x))
    close(encoded.hidden[0], first(flatten(tower), encoded.hidden[-1]))
    assert encoded.attention[1].shape == (2, 25, 25)
    close(encoded.attention[1].sum(-1), jnp.ones((2, 25)))


def test_prompts_act_and_leave_the_shape_alone(tower):
    added = VisualPrompts(24, input_grid=5, layer_grid=3, layers=(1,), rngs=nnx.Rngs(0))
    prepended = VisualPrompts(24, prepend_layers=(0, 1), num_prepended=2, rngs=nnx.Rngs(0))
    plain = dense(tower, images(), last="plain")
    for prompts in (added, prepended):
        prompted = dense(tower, images(), last="plain", prompts=prompts)
        assert prompted[1].shape == plain[1].shape
        apart(prompted, plain)


def test_bfloat16_stays_near_float32(tower):
    """Within 5 % of the range: bfloat16 has 8 bits, and three blocks add up their rounding."""
    plan = blueprint(lambda: build(jnp.bfloat16))
    half = jax.jit(lambda leaves, x: plan.merge(leaves).dense(x))(flatten(tower), images())
    for got, want in zip(half, dense(tower, images()), strict=True):
        assert got.dtype == jnp.bfloat16
        assert np.abs(got.astype(jnp.float32) - want).max() < 0.05 * np.ptp(want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": "mean"}, "last must be one of plain, gps"),
        ({"last": "gps", "severance": {2: Gps()}}, "use one"),
        ({"severance": {3: Gps()}}, "there is no block 3: the tower has 3"),
    ],
)
def test_impossible_requests_are_named(tower, options, message):
    with pytest.raises(ValueError, match=message):
        tower.dense(images(), **options)


def test_a_severed_block_has_no_map_to_give(tower):
    with pytest.raises(ValueError, match="severed: they have no attention map"):
        tower.encode(images(), severance={-1: Gps()}, attention=(2,))
    with pytest.raises(ValueError, match="layer 3 was asked for, of 0 to 2"):
        tower.encode(images(), hidden=(3,))
