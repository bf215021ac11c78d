"""Trains the tiny CLIP that ships with the package, on PartWorld's captions alone.

Run:  python -m opvseg_jax.train.pretrain_clip --out runs/tiny_clip

The loss is the sigmoid form of CLIP's (SigLIP, Zhai et al. 2023): for every image and every caption
of the batch, is the caption true of the image? In a world of sixteen kinds many captions are true
of many images, so the pairs are told by what captions claim, not by which image they came with.
The loss is taken twice: on the class token, and on the patches of the severed last block, pooled
over the image for each caption (as in PACL, Mukhoti et al. 2023). The second makes patches speak
the language of words, which a large CLIP learns by scale. No pixel label is used.

Shapes: B images, T captions of a batch, N patches, C channels, E embedding, F facts.
"""

import argparse
import functools
import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from opvseg_jax.core.weights import Blueprint, blueprint, flatten
from opvseg_jax.encoders.clip import Clip, unit
from opvseg_jax.encoders.clip_text import ClipText
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.severance import Gps, sever
from opvseg_jax.hub.encoders import save_clip
from opvseg_jax.pipeline import partworld
from opvseg_jax.text.tokenizer import train_tokenizer

log = logging.getLogger(__name__)

VISION = {
    "image_size": 96,
    "patch_size": 8,
    "width": 128,
    "num_layers": 4,
    "num_heads": 4,
    "mlp_dim": 384,
    "embed_dim": 96,
}
TEXT = {
    "context": 32,
    "width": 96,
    "num_layers": 2,
    "num_heads": 3,
    "mlp_dim": 384,
    "embed_dim": 96,
}
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


class Corpus(NamedTuple):
    """Images with several captions each; facts as one row of bits for each image and caption."""

    images: np.ndarray  # [n, S, S, 3] uint8
    image_facts: np.ndarray  # [n, F] bool
    tokens: np.ndarray  # [m, L] int32, all captions of all images
    caption_facts: np.ndarray  # [m, F] bool
    first: np.ndarray  # [n + 1] the captions of image i are first[i] ... first[i + 1]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=48_000, help="images drawn before training")
    parser.add_argument("--steps", type=int, default=2_200)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--captions", type=int, default=2, help="of each image in a step")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--keep", type=float, default=0.5, help="share of patches seen in a step")
    parser.add_argument("--full", type=float, default=0.15, help="last share of steps, all patches")
    parser.add_argument("--save-every", type=int, default=200, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)

    began = time.monotonic()
    corpus, vocab_size = draw_corpus(args)
    log.info("drew %d images in %.0f s", len(corpus.images), time.monotonic() - began)
    plan = blueprint(functools.partial(build, vocab_size, args.seed))
    weights = jax.jit(lambda: flatten(build(vocab_size, args.seed)))()
    weights["bias"] = jnp.array([0.3, 0.3])
    save = functools.partial(save_clip, args.out, config=config(vocab_size), dtype=np.float16)
    for trained in train(plan, weights, corpus, args, began):
        save(split_bias(trained)[0])


def build(vocab_size: int, seed: int) -> Clip:
    rngs = nnx.Rngs(seed)
    return Clip(ClipVision(**VISION, rngs=rngs), ClipText(vocab_size=vocab_size, **TEXT, rngs=rngs))


def draw_corpus(args: argparse.Namespace) -> tuple[Corpus, int]:
    """Draws the images in processes, trains the tokenizer on the captions, packs both."""
    chunk = 500
    draw = functools.partial(partworld.render_many, "pretrain", size=VISION["image_size"])
    jobs = range(0, args.images, chunk)
    with ProcessPoolExecutor(args.workers) as pool:
        drawn = list(pool.map(draw, jobs, [min(chunk, args.images - start) for start in jobs]))
    captions = [captions for piece in drawn for captions in piece.captions]
    fits = [tuple(c for c in one if len(c.text.split()) < TEXT["context"] - 3) for one in captions]
    captions = [short or one for short, one in zip(fits, captions, strict=True)]
    facts = [facts for piece in drawn for facts in piece.facts]
    flat = [caption for one in captions for caption in one]
    tokenizer = train_tokenizer([c.text for c in flat], 896, args.out, TEXT["context"])
    place = {fact: i for i, fact in enumerate(sorted(frozenset().union(*facts)))}
    corpus = Corpus(
        images=np.concatenate([piece.images for piece in drawn]),
        image_facts=_bits(facts, place),
        tokens=tokenizer([c.text for c in flat]),
        caption_facts=_bits([c.facts for c in flat], place),
        first=np.cumsum([0, *map(len, captions)]),
    )
    return corpus, int(corpus.tokens.max()) + 1


def _bits(rows, place: dict) -> np.ndarray:
    bits = np.zeros((len(rows), len(place)), bool)
    for i, facts in enumerate(rows):
        bits[i, [place[fact] for fact in facts]] = True
    return bits


def batches(corpus: Corpus, args: argparse.Namespace):
    """One batch for each step, of which `loss_of` takes the fields in this order.

    strips [B, p, n p, 3] and order [n]: n patches of each image, the same ones in the whole batch;
    tokens [T, L]; is_true [B, T], image x caption.
    """
    rng = np.random.default_rng(args.seed)
    side, patch = VISION["image_size"], VISION["patch_size"]
    grid = side // patch
    queue = np.zeros(0, int)
    for i in range(args.steps):
        if len(queue) < args.batch:
            queue = rng.permutation(len(corpus.images))
        chosen, queue = np.split(queue, [args.batch])
        low, high = corpus.first[chosen], corpus.first[chosen + 1]
        said = rng.integers(low, high, (args.captions, args.batch)).reshape(-1)
        missing = (~corpus.image_facts[chosen]).astype(np.float32)
        is_true = missing @ corpus.caption_facts[said].astype(np.float32).T == 0
        keep = args.keep if i < args.steps * (1 - args.full) else 1.0
        order = rng.permutation(grid * grid)[: round(grid * grid * keep)]
        images = augment(corpus.images[chosen], rng)
        cells = images.reshape(-1, grid, patch, grid, patch, 3).swapaxes(2, 3)
        cells = cells.reshape(-1, grid * grid, patch, patch, 3)[:, order]
        strips = cells.swapaxes(1, 2).reshape(-1, patch, patch * len(order), 3)
        yield strips, order, corpus.tokens[said], is_true


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips half of the images and changes their brightness a little; captions stay true."""
    flips = rng.random(len(images)) < 0.5
    images = np.where(flips[:, None, None, None], images[:, :, ::-1], images)
    gain = rng.uniform(0.85, 1.15, (len(images), 1, 1, 1)).astype(np.float32)
    return ((images * gain / 255.0 - MEAN) / STD).astype(np.float32)


def train(plan: Blueprint, weights, corpus: Corpus, args: argparse.Namespace, began: float):
    """Yields the weights every `save_every` steps and at the end."""
    warmup = args.steps // 12
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.lr, warmup, args.steps, args.lr / 50)
    decay = {path: leaf.ndim > 1 for path, leaf in weights.items()}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=0.1, mask=decay),
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, state, batch):
        loss = functools.partial(loss_of, plan)
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(weights, *batch)
        updates, state = optimizer.update(grads, state, weights)
        return optax.apply_updates(weights, updates), state, metrics

    state = optimizer.init(weights)
    history = (args.out / "train_log.jsonl").open("w")
    for i, batch in enumerate(batches(corpus, args)):
        weights, state, metrics = step(weights, state, batch)
        if (i + 1) % 25 == 0:
            row = {name: round(float(value), 4) for name, value in metrics.items()}
            row = {"step": i + 1, "seconds": round(time.monotonic() - began), **row}
            history.write(json.dumps(row) + "\n")
            history.flush()
            log.info("%s", row)
        if (i + 1) % args.save_every == 0 or i + 1 == args.steps:
            yield jax.device_get(weights)
    history.close()


def loss_of(plan: Blueprint, weights, strips, order, tokens, is_true):
    """The class token's and the patches' loss, and how many true captions each recognises."""
    weights, bias = split_bias(weights)
    clip = plan.merge(weights)
    words = unit(clip.text(tokens))
    whole, patches = encode(clip.vision, strips, order)
    whole = unit(whole) @ words.T
    pooled = pool(jnp.einsum("bne,te->btn", unit(patches), words))
    scale = jnp.exp(clip.logit_scale[...])
    losses = {
        "loss_class": sigmoid_loss(scale * (whole - bias[0]), is_true),
        "loss_patch": sigmoid_loss(scale * (pooled - bias[1]), is_true),
    }
    right = {"class": (whole > bias[0]) == is_true, "patch": (pooled > bias[1]) == is_true}
    recall = {f"recall_{k}": jnp.sum(v * is_true) / jnp.sum(is_true) for k, v in right.items()}
    return losses["loss_class"] + losses["loss_patch"], {**losses, **recall, "scale": scale}


def split_bias(weights):
    """The two cosines above which a caption counts as true; they are not part of the CLIP."""
    rest = {path: leaf for path, leaf in weights.items() if path != "bias"}
    return rest, weights["bias"]


def encode(vision: ClipVision, strips: jax.Array, order: jax.Array):
    """Some patches of each image, side by side, and their places in the positional table.

    strips [B, p, n p, 3], order [n] -> class token [B, E] and patches [B, n, E]. Patches that are
    left out cost nothing (FLIP, Li et al. 2023).
    """
    patches = vision.patch(strips)[:, 0]  # [B, n, C]
    first = jnp.broadcast_to(vision.class_embedding[...], (len(patches), 1, patches.shape[-1]))
    positions = jnp.concatenate([vision.positions[:1], vision.positions[1:][order]])
    x = vision.norm_pre(jnp.concatenate([first, patches], axis=1) + positions)
    *blocks, last = vision.blocks
    for block in blocks:
        x = block(x)
    whole = vision.project(last(x, num_queries=1)[:, 0])
    severed = sever(last, x, Gps(), (1, x.shape[1] - 1))
    return whole, vision.project(severed[:, 1:])


def pool(cosine: jax.Array, sharpness: float = 12.0) -> jax.Array:
    """cosine [B, T, N] -> [B, T]: the mean over patches, weighted to where a caption fits best."""
    return jnp.sum(jax.nn.softmax(sharpness * cosine, axis=-1) * cosine, axis=-1)


def sigmoid_loss(logits: jax.Array, is_true: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits [B, T], summed over captions, mean over images."""
    return optax.sigmoid_binary_cross_entropy(logits, is_true).sum(axis=1).mean()


def config(vocab_size: int) -> dict:
    """The HuggingFace description (config.json) of the tiny CLIP."""
    return {
        "model_type": "clip",
        "projection_dim": VISION["embed_dim"],
        "vision_config": {
            "image_size": VISION["image_size"],
            "patch_size": VISION["patch_size"],
            "hidden_size": VISION["width"],
            "num_hidden_layers": VISION["num_layers"],
            "num_attention_heads": VISION["num_heads"],
            "intermediate_size": VISION["mlp_dim"],
            "hidden_act": "quick_gelu",
        },
        "text_config": {
            "vocab_size": vocab_size,
            "max_position_embeddings": TEXT["context"],
            "hidden_size": TEXT["width"],
            "num_hidden_layers": TEXT["num_layers"],
            "num_attention_heads": TEXT["num_heads"],
            "intermediate_size": TEXT["mlp_dim"],
            "hidden_act": "quick_gelu",
            "eos_token_id": vocab_size - 1,
        },
    }


if __name__ == "__main__":
    main()
