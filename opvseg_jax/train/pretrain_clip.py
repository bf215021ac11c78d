"""Trains the tiny CLIP that ships with the package, on PartWorld's captions alone.

Run:  python -m opvseg_jax.train.pretrain_clip --out runs/tiny_clip

First the text tower alone: two captions lie as close as their claims do. Trained together from
nothing, the towers stay long at a saddle where all kinds of objects are one word and one look.

Then the image tower, towards the finished text tower (LiT, Zhai et al. 2022), by the sigmoid form
of CLIP's loss (SigLIP, Zhai et al. 2023): for every image and every caption of the batch, is the
caption true of the image? In a world of sixteen kinds many captions are true of many images, so the
pairs are told by what captions claim, not by which image they came with. Each step also asks for
every kind, part and background by its plain name. The loss is taken twice: on the class token, and
on the patches of the severed last block, pooled over the image for each caption (as in PACL,
Mukhoti et al. 2023). The second makes patches speak the language of words, which a large CLIP
learns by scale. No pixel label is used.

Shapes: B images, T captions of a batch, N patches, C channels, E embedding, F facts.
"""

import argparse
import functools
import json
import logging
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from opvseg_jax.core.layers import unit
from opvseg_jax.core.weights import Blueprint, blueprint, flatten, part_of
from opvseg_jax.encoders.clip import Clip
from opvseg_jax.encoders.clip_text import ClipText
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.positions import HUGGINGFACE, resize_positions
from opvseg_jax.encoders.severance import Gps, sever
from opvseg_jax.hub.encoders import load_clip, save_clip
from opvseg_jax.pipeline import partworld
from opvseg_jax.pipeline.partworld_captions import Caption
from opvseg_jax.pipeline.partworld_words import BACKGROUNDS, KINDS, PARTS
from opvseg_jax.text.tokenizer import Tokenizer, train_tokenizer
from opvseg_jax.train.small import make_optimizer, wave_positions

log = logging.getLogger(__name__)

VISION = {
    "image_size": 64,
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
    concepts: np.ndarray  # [m, K] float32, what a caption is about, of unit length
    names: np.ndarray  # [k] rows of `tokens`: every kind, part and background by its plain name


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="folder of an earlier run to go on from")
    parser.add_argument("--images", type=int, default=48_000, help="images drawn before training")
    parser.add_argument("--first-image", type=int, default=0, help="of the pretrain split")
    parser.add_argument("--pixels", type=int, default=VISION["image_size"], help="of a side")
    parser.add_argument("--sharpness", type=float, default=12.0, help="of the pooling of patches")
    parser.add_argument("--steps", type=int, default=3_200)
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--captions", type=int, default=2, help="of each image in a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=500, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)

    began = time.monotonic()
    corpus, vocab_size = draw_corpus(args)
    log.info("drew %d images in %.0f s", len(corpus.images), time.monotonic() - began)
    make = functools.partial(build, vocab_size, args.seed, args.pixels)
    plan, text_plan = blueprint(make), blueprint(lambda: make().text)
    weights = jax.jit(lambda: flatten(make()))()
    grid = args.pixels // VISION["patch_size"]
    weights["vision/positions"] = wave_positions(grid, VISION["width"])
    if args.init:
        weights = dict(load_clip(args.init).weights)
        text, positions = part_of(weights, "text"), weights["vision/positions"]
        weights["vision/positions"] = resize_positions(positions, (grid, grid), HUGGINGFACE)
    else:
        text = train_text(text_plan, part_of(weights, "text"), corpus, args)
    words = encode_all(text_plan, text, corpus.tokens)
    log.info("text tower: %.0f s", time.monotonic() - began)
    weights |= {f"text/{path}": leaf for path, leaf in text.items()}
    description = config(vocab_size, args.pixels)
    save = functools.partial(save_clip, args.out, config=description, dtype=np.float16)
    for trained in train(plan, weights, words, corpus, args, began):
        save(trained)


def build(vocab_size: int, seed: int, pixels: int) -> Clip:
    rngs, vision = nnx.Rngs(seed), VISION | {"image_size": pixels}
    return Clip(ClipVision(**vision, rngs=rngs), ClipText(vocab_size=vocab_size, **TEXT, rngs=rngs))


def draw_corpus(args: argparse.Namespace) -> tuple[Corpus, int]:
    """Draws the images in processes, trains the tokenizer on the captions, packs both."""
    chunk = 500
    draw = functools.partial(partworld.render_many, "pretrain", size=args.pixels)
    end = args.first_image + args.images
    jobs = range(args.first_image, end, chunk)
    # A fork of a process in which JAX runs threads may never come back.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=spawn) as pool:
        drawn = list(pool.map(draw, jobs, [min(chunk, end - start) for start in jobs]))
    captions = [captions for piece in drawn for captions in piece.captions]
    fits = [tuple(c for c in one if len(c.text.split()) < TEXT["context"] - 3) for one in captions]
    captions = [short or one for short, one in zip(fits, captions, strict=True)]
    facts = [facts for piece in drawn for facts in piece.facts]
    names = plain_names()
    flat = [*names, *(caption for one in captions for caption in one)]
    if args.init:
        shutil.copyfile(args.init / "tokenizer.json", args.out / "tokenizer.json")
        tokenizer = Tokenizer.from_folder(args.out, TEXT["context"])
    else:
        tokenizer = train_tokenizer([c.text for c in flat], 896, args.out, TEXT["context"])
    claimed = frozenset().union(*facts, *(c.facts for c in names))  # a name may fit no image
    place = {fact: i for i, fact in enumerate(sorted(claimed))}
    corpus = Corpus(
        images=np.concatenate([piece.images for piece in drawn]),
        image_facts=_bits(facts, place),
        tokens=tokenizer([c.text for c in flat]),
        caption_facts=_bits([c.facts for c in flat], place),
        concepts=_weights([concepts(c) for c in flat]),
        first=np.cumsum([len(names), *map(len, captions)]),
        names=np.arange(len(names)),
    )
    return corpus, int(corpus.tokens.max()) + 1


def plain_names() -> list[Caption]:
    """The shortest caption of each kind, part and background."""
    kinds = [Caption(f"a {kind}", frozenset({("kind", kind)})) for kind in KINDS]
    parts = [Caption(f"{kind}'s {part}", frozenset({("part", kind, part)})) for kind, part in PARTS]
    return kinds + parts + [Caption(b, frozenset({("background", b)})) for b in BACKGROUNDS]


def _bits(rows, place: dict) -> np.ndarray:
    bits = np.zeros((len(rows), len(place)), bool)
    for i, facts in enumerate(rows):
        bits[i, [place[fact] for fact in facts]] = True
    return bits


def _weights(rows: list[dict]) -> np.ndarray:
    place = {name: i for i, name in enumerate(sorted(set().union(*rows)))}
    found = np.zeros((len(rows), len(place)), np.float32)
    for i, row in enumerate(rows):
        found[i, [place[name] for name in row]] = list(row.values())
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def concepts(caption: Caption) -> dict[tuple[str, ...], float]:
    """What a caption is about, with weights: "dog's head" is about dogs, heads and dogs' heads."""
    found: dict[tuple[str, ...], float] = {}
    for fact in caption.facts:
        what, *rest = fact
        if what == "part":
            found |= {("kind", rest[0]): 0.7, ("generic", rest[1]): 0.7, fact: 1.0}
        elif what in ("attribute", "look"):
            *looks, kind = rest
            found |= {("kind", kind): 1.0, fact: 0.5}
            found |= {("word", word): 1.0 for word in looks}
        else:
            found[fact] = 1.0
    return found


def train_text(plan: Blueprint, text, corpus: Corpus, args: argparse.Namespace):
    """Cosines of captions become those of their concepts: mean squared difference, AdamW."""
    pace = optax.warmup_cosine_decay_schedule(0.0, 3e-3, args.text_steps // 10, args.text_steps)
    optimizer = optax.adamw(pace, b2=0.99, weight_decay=0.01)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(text, state, tokens, target):
        def loss(text):
            x = unit(plan.merge(text)(tokens))
            return jnp.mean((x @ x.T - target) ** 2)

        value, grads = jax.value_and_grad(loss)(text)
        updates, state = optimizer.update(grads, state, text)
        return optax.apply_updates(text, updates), state, value

    rng = np.random.default_rng(args.seed)
    state = optimizer.init(text)
    for i in range(args.text_steps):
        said = rng.integers(0, len(corpus.tokens), 256 - len(corpus.names))
        asked = np.concatenate([corpus.names, said])
        claims = corpus.concepts[asked]
        text, state, value = step(text, state, corpus.tokens[asked], claims @ claims.T)
        if (i + 1) % 100 == 0:
            log.info("%s", {"text_step": i + 1, "loss": round(float(value), 5)})
    return text


def encode_all(plan: Blueprint, text, tokens: np.ndarray) -> np.ndarray:
    """tokens [m, L] -> unit embeddings [m, E], in batches of one size."""
    run = jax.jit(lambda text, tokens: unit(plan.merge(text)(tokens)))
    batch = 512
    padded = np.pad(tokens, ((0, -len(tokens) % batch), (0, 0)), mode="edge")
    found = [run(text, padded[start : start + batch]) for start in range(0, len(padded), batch)]
    return np.concatenate(found)[: len(tokens)]


def batches(corpus: Corpus, words: np.ndarray, args: argparse.Namespace):
    """One batch for each step: images [B, S, S, 3], words [T, E], is_true [B, T], prior [T]."""
    rng = np.random.default_rng(args.seed)
    some = rng.permutation(len(corpus.images))[:1000]  # how often captions are true is read here
    queue = np.zeros(0, int)
    for _ in range(args.steps):
        if len(queue) < args.batch:
            queue = rng.permutation(len(corpus.images))
        chosen, queue = np.split(queue, [args.batch])
        low, high = corpus.first[chosen], corpus.first[chosen + 1]
        said = rng.integers(low, high, (args.captions, args.batch)).reshape(-1)
        asked = np.concatenate([corpus.names, said])
        is_true = truth(corpus, chosen, asked)
        share = truth(corpus, some, asked).mean(axis=0).clip(1 / len(some))
        prior = np.log(share / (1 - share)).astype(np.float32)
        yield augment(corpus.images[chosen], rng), words[asked], is_true, prior


def truth(corpus: Corpus, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Which of the captions [T] are true of which of the images [B] -> bool [B, T]."""
    missing = (~corpus.image_facts[images]).astype(np.float32)
    return missing @ corpus.caption_facts[captions].astype(np.float32).T == 0


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips half of the images and changes their brightness a little; captions stay true."""
    flips = rng.random(len(images)) < 0.5
    images = np.where(flips[:, None, None, None], images[:, :, ::-1], images)
    gain = rng.uniform(0.85, 1.15, (len(images), 1, 1, 1)).astype(np.float32)
    return ((images * gain / 255.0 - MEAN) / STD).astype(np.float32)


def train(plan: Blueprint, weights, words, corpus: Corpus, args: argparse.Namespace, began: float):
    """Yields the weights every `save_every` steps and at the end; the text tower stays."""
    text = {path: leaf for path, leaf in weights.items() if path.startswith("text/")}
    weights = {path: leaf for path, leaf in weights.items() if path not in text}
    optimizer = make_optimizer(args.lr, args.steps, weights)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, state, batch):
        def loss(weights):
            return loss_of(plan.merge(text | weights), *batch, sharpness=args.sharpness)

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, state = optimizer.update(grads, state, weights)
        return optax.apply_updates(weights, updates), state, metrics

    state = optimizer.init(weights)
    history = (args.out / "train_log.jsonl").open("w")
    for i, batch in enumerate(batches(corpus, words, args)):
        weights, state, metrics = step(weights, state, batch)
        if (i + 1) % 100 == 0:
            row = {name: round(float(value), 4) for name, value in metrics.items()}
            row = {"step": i + 1, "seconds": round(time.monotonic() - began), **row}
            history.write(json.dumps(row) + "\n")
            history.flush()
            log.info("%s", row)
        if (i + 1) % args.save_every == 0 or i + 1 == args.steps:
            yield jax.device_get(text | weights)
    history.close()


def loss_of(clip: Clip, images, words, is_true, prior, *, sharpness: float = 12.0):
    """The class token's and the patches' loss, summed over captions, mean over images.

    `prior` [T] is the log-odds of a caption over all images (logit adjustment, Menon et al. 2021):
    without it the towers first learn which captions are common, and every text grows alike.
    """
    whole, patches = encode(clip.vision, images)
    whole = unit(whole) @ words.T
    pooled = pool(jnp.einsum("bne,te->btn", unit(patches), words), sharpness)
    scale = jnp.exp(clip.logit_scale[...])
    losses, metrics = [], {"scale": scale}
    for name, cosine in (("class", whole), ("patch", pooled)):
        each = optax.sigmoid_binary_cross_entropy(scale * cosine + prior, is_true)
        losses.append(each.sum(axis=1).mean())
        metrics |= {f"loss_{name}": losses[-1], f"gain_{name}": gain(cosine, is_true)}
    return sum(losses), metrics


def gain(cosine: jax.Array, is_true: jax.Array) -> jax.Array:
    """How much larger the cosine [B, T] of true pairs is than that of false ones, in the mean."""
    true = jnp.sum(cosine * is_true) / jnp.sum(is_true)
    return true - jnp.sum(cosine * ~is_true) / jnp.sum(~is_true)


def encode(vision: ClipVision, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """images [B, S, S, 3] -> class token [B, E] and severed patches [B, N, E], from one trunk."""
    x = vision.embed(images)
    *blocks, last = vision.blocks
    for block in blocks:
        x = block(x)
    whole = vision.project(last(x, num_queries=1)[:, 0])
    severed = sever(last, x, Gps(), vision.grid(images))
    return whole, vision.project(severed[:, 1:])


def pool(cosine: jax.Array, sharpness: float) -> jax.Array:
    """cosine [B, T, N] -> [B, T]: the mean over patches, weighted to where a caption fits best."""
    return jnp.sum(jax.nn.softmax(sharpness * cosine, axis=-1) * cosine, axis=-1)


def config(vocab_size: int, pixels: int) -> dict:
    """The HuggingFace description (config.json) of the tiny CLIP."""
    return {
        "model_type": "clip",
        "projection_dim": VISION["embed_dim"],
        "vision_config": {
            "image_size": pixels,
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
