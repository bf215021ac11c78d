"""The text tower: read out at the end token, blind for what follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.encoders.clip_text import ClipText
from opvseg_jax.encoders.text_prompts import TextPrompts

START, END, STOP = 28, 29, 7


@pytest.fixture(scope="module")
def tower():
    return ClipText(
        vocab_size=30,
        context=12,
        width=24,
        num_layers=2,
        num_heads=3,
        mlp_dim=48,
        embed_dim=8,
        rngs=nnx.Rngs(1),
    )


def tokens(pad=0):
    rows = [[START, 3, END], [START, 5, 6, 4, END]]
    return jnp.array([row + [pad] * (12 - len(row)) for row in rows])


def test_padding_and_length_do_not_matter(tower):
    encode = jax.jit(tower)
    want = encode(tokens(0))
    np.testing.assert_allclose(encode(tokens(END)), want, atol=1e-6)
    np.testing.assert_allclose(encode(tokens(9)[:, :5]), want, atol=1e-6)
    assert np.abs(want[0] - want[1]).max() > 1e-2


def test_the_end_token_can_be_another_than_the_largest_id(tower):
    other = ClipText(
        vocab_size=30,
        context=12,
        width=24,
        num_layers=0,
        num_heads=3,
        mlp_dim=48,
        embed_dim=8,
        end_token=5,
        rngs=nnx.Rngs(1),
    )
    np.testing.assert_array_equal(other.end_of(jnp.array([[28, 3, 5, 29, 5]])), [2])
    np.testing.assert_array_equal(tower.end_of(tokens(END)), [2, 4])


def test_embeddings_enter_like_tokens(tower):
    end = tower.end_of(tokens())
    got = jax.jit(lambda e: tower.from_embeddings(e, end))(tower.embed(tokens()))
    np.testing.assert_allclose(got, jax.jit(tower)(tokens()), atol=1e-6)


def test_texts_beyond_the_context_are_refused(tower):
    with pytest.raises(ValueError, match="at most 12 tokens, got 13"):
        tower(jnp.zeros((1, 13), int))


def test_learned_words_stand_around_the_name(tower):
    prompts = TextPrompts(24, 2, 1, rngs=nnx.Rngs(0))
    embeddings, end = prompts(tower, tokens(), full_stop=STOP)
    word, prefix, suffix = tower.token_embedding[...], prompts.prefix[...], prompts.suffix[...]
    np.testing.assert_array_equal(end, [6, 8])
    second = [*prefix, word[5], word[6], word[4], *suffix, word[STOP], word[END]]
    want = jnp.stack([word[START], *second, *[word[0]] * 3])
    np.testing.assert_array_equal(embeddings[1], want)


def test_names_without_room_are_cut_and_end_all_the_same(tower):
    prompts = TextPrompts(24, 6, 0, rngs=nnx.Rngs(0))
    embeddings, end = prompts(tower, jnp.array([[START, 1, 2, 3, 4, 5, END]]), full_stop=STOP)
    word = tower.token_embedding[...]
    np.testing.assert_array_equal(end, [11])
    tail = jnp.stack([word[1], word[2], word[3], word[STOP], word[END]])
    np.testing.assert_array_equal(embeddings[0, 7:], tail)
