"""Trains the tiny DINO-style ViT that ships with the package, by self-distillation on PartWorld.

Run:  python -m opvseg_jax.train.pretrain_dino --out runs/tiny_dino

A teacher, the running mean of the student, sees a view of each image. The student sees smaller and
closer views from inside it, mirrored, in other colours, one of them with patches masked, and says
for each of its patches which of K prototypes the teacher gives to that place, and for its class
token which the teacher gives to the image. So DINOv2 (Oquab et al. 2023), with two departures that
a few minutes on two cores ask for: the patch loss, iBOT's (Zhou et al. 2022), is taken on patches
that are visible too and between views, since patches are what the library uses; and one teacher
view serves all students. Sinkhorn-Knopp gives each prototype an equal share: nothing collapses.

Shapes: B images, N patches, C channels, E bottleneck, K prototypes.
"""

import argparse
import functools
import json
import logging
import multiprocessing
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
from opvseg_jax.encoders.dino import DinoFeatures
from opvseg_jax.encoders.sizes import from_hf_config
from opvseg_jax.hub.encoders import DINO_PIXELS, save_dino
from opvseg_jax.pipeline import partworld
from opvseg_jax.train import patch_probe, views
from opvseg_jax.train.small import make_optimizer, wave_positions

log = logging.getLogger(__name__)

CONFIG = {
    "model_type": "dinov2",
    "image_size": 96,
    "patch_size": 8,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
SOURCE = 128  # pixels of the drawn images: close views of 96 would be blurred


class View(NamedTuple):
    """Square crops that are seen at `size` pixels."""

    size: int
    sides: tuple[float, float]  # least and most, as shares of what they are cut from
    masked: tuple[float, float] | None = None  # least and most share of its patches
    times: int = 1  # crops of each image


TEACHER_VIEW = View(96, (0.7, 1.0))  # of the image
STUDENT_VIEWS = {  # of the teacher's view
    "masked": View(80, (0.6, 1.0), masked=(0.1, 0.6)),
    "close": View(40, (0.25, 0.55), times=3),
}
HIDDEN, BOTTLENECK = 192, 64
STUDENT_HEAT, TEACHER_HEAT = 0.1, 0.04
CLASS_WEIGHT = 0.3
TOLD_EVERY = 25  # steps


class Head(nnx.Module):
    """Features -> cosines with prototypes."""

    def __init__(self, width: int, prototypes: int, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(width, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, BOTTLENECK, rngs=rngs)
        self.prototypes = nnx.Param(jax.random.normal(rngs.params(), (BOTTLENECK, prototypes)))

    def embed(self, x: jax.Array) -> jax.Array:
        """x [..., C] -> [..., E] of length one."""
        return unit(standard(self.down(jax.nn.gelu(standard(self.up(x))))))

    def compare(self, z: jax.Array) -> jax.Array:
        """z [..., E] -> [..., K]."""
        return z @ unit(self.prototypes[...].T).T


class Learner(nnx.Module):
    """What student and teacher consist of; only `dino` is kept."""

    def __init__(self, prototypes: int, class_prototypes: int, *, rngs: nnx.Rngs):
        size = from_hf_config(CONFIG)
        self.dino = size.build(rngs=rngs)
        self.mask = nnx.Param(0.02 * jax.random.normal(rngs.params(), (size.tower.width,)))
        self.patch_head = Head(size.tower.width, prototypes, rngs=rngs)
        self.class_head = Head(size.tower.width, class_prototypes, rngs=rngs)

    def encode(self, images: jax.Array, mask: jax.Array | None = None) -> DinoFeatures:
        """images [B, H, W, 3] in 0..1, mask [B, h, w]: True where a patch is hidden."""
        mean, std = (jnp.array(values) for values in DINO_PIXELS)
        dino = self.dino
        x = dino.patch((images - mean) / std)
        b, *grid, c = x.shape
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask[...], x)
        positions = dino.positions_for(tuple(grid))
        first = jnp.broadcast_to(dino.class_embedding[...] + positions[0], (b, 1, c))
        x = jnp.concatenate([first, x.reshape(b, -1, c) + positions[1:]], axis=1)
        for block in dino.blocks:
            x = block(x)
        return dino.split(dino.norm_post(x), tuple(grid))


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    images = draw_images(args.images, args.workers)
    log.info("drew %d images in %.0f s", len(images), time.monotonic() - began)
    plan = blueprint(lambda: build(args))
    with (args.out / "train_log.jsonl").open("w") as history:

        def tell(row: dict) -> None:
            step, *numbers = row.items()
            row = {name: round(float(value), 4) for name, value in numbers}
            row = dict([step]) | {"seconds": round(time.monotonic() - began)} | row
            history.write(json.dumps(row) + "\n")
            history.flush()
            log.info("%s", row)

        for step, teacher in train(plan, images, args, tell):
            tell({"step": step, **judge(plan, teacher, args.judged)})
            save_dino(args.out, part_of(teacher, "dino"), CONFIG, dtype=np.float16)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000, help="drawn before training")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--momentum", type=float, default=0.97, help="of the teacher, at first")
    parser.add_argument("--prototypes", type=int, default=512)
    parser.add_argument("--class-prototypes", type=int, default=64)
    parser.add_argument("--save-every", type=int, default=250, help="steps")
    parser.add_argument("--judged", type=int, default=50, help="images of a split to judge by")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args(argv)


def build(args: argparse.Namespace) -> Learner:
    return Learner(args.prototypes, args.class_prototypes, rngs=nnx.Rngs(args.seed))


def draw_images(count: int, workers: int) -> np.ndarray:
    """Images 0 ... count - 1 of the split `pretrain`, [count, S, S, 3] uint8."""
    chunk = 500
    draw = functools.partial(partworld.render_many, "pretrain", size=SOURCE)
    jobs = range(0, count, chunk)
    out = np.empty((count, SOURCE, SOURCE, 3), np.uint8)
    # A fork of a process in which JAX runs threads may never come back.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        drawn = pool.map(draw, jobs, [min(chunk, count - start) for start in jobs])
        for start, piece in zip(jobs, drawn, strict=True):
            out[start : start + chunk] = piece.images
    return out


def initial(args: argparse.Namespace):
    weights = jax.jit(lambda: flatten(build(args)))()
    grid = CONFIG["image_size"] // CONFIG["patch_size"]
    return weights | {"dino/positions": wave_positions(grid, CONFIG["hidden_size"])}


def train(plan: Blueprint, images: np.ndarray, args: argparse.Namespace, tell):
    """Yields the step and the teacher's weights, now and then and at the end."""
    student = initial(args)
    teacher = jax.tree.map(jnp.copy, student)
    optimizer = make_optimizer(args.lr, args.steps, student)
    state = optimizer.init(student)
    step = jax.jit(functools.partial(update, plan, optimizer), donate_argnums=(0, 1, 2))
    key = jax.random.key(args.seed)
    for i, chosen in enumerate(choose(len(images), args)):
        momentum = 1 - (1 - args.momentum) * (1 + np.cos(np.pi * i / args.steps)) / 2
        student, teacher, state, metrics = step(
            student, teacher, state, images[chosen], jax.random.fold_in(key, i), momentum
        )
        is_last = i + 1 == args.steps
        if (i + 1) % TOLD_EVERY == 0 or is_last:
            tell({"step": i + 1, **metrics})
        if (i + 1) % args.save_every == 0 or is_last:
            yield i + 1, jax.tree.map(jnp.copy, teacher)


def choose(count: int, args: argparse.Namespace):
    """The images of each step: all of them in a new order, again and again."""
    rng = np.random.default_rng(args.seed)
    queue = np.zeros(0, int)
    for _ in range(args.steps):
        while len(queue) < args.batch:
            queue = np.concatenate([queue, rng.permutation(count)])
        chosen, queue = np.split(queue, [args.batch])
        yield chosen


def update(plan: Blueprint, optimizer, student, teacher, state, images, key, momentum):
    """One step of the student, and the teacher a little after it."""
    loss = functools.partial(loss_of, plan)
    grads, metrics = jax.grad(loss, has_aux=True)(student, teacher, images, key)
    updates, state = optimizer.update(grads, state, student)
    student = optax.apply_updates(student, updates)
    teacher = jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, teacher, student)
    return student, teacher, state, metrics


def loss_of(plan: Blueprint, student, teacher, images, key):
    """images [B, S, S, 3] uint8 -> the patches' and the class token's loss, and what to watch."""
    student, teacher = plan.merge(student), plan.merge(teacher)
    keys = jax.random.split(key, 1 + len(STUDENT_VIEWS))
    lesson, balanced, metrics = teach(teacher, images / 255.0, keys[0])
    patch_losses, class_losses = [], []
    for (name, view), view_key in zip(STUDENT_VIEWS.items(), keys[1:], strict=True):
        lessons = jax.tree.map(lambda x, n=view.times: jnp.concatenate([x] * n), lesson)
        patch_loss, class_loss = learn(student, teacher, lessons, balanced, view, view_key)
        metrics |= {f"loss_{name}": patch_loss, f"loss_{name}_class": class_loss}
        patch_losses.append(patch_loss)
        class_losses.append(class_loss)
    return sum(patch_losses) + CLASS_WEIGHT * sum(class_losses), metrics


class Lesson(NamedTuple):
    """What the teacher says of its view of each image."""

    images: jax.Array  # [B, S, S, 3]
    crop: views.Crop
    patches: jax.Array  # [B, h, w, E]
    whole: jax.Array  # [B, K], shares of the prototypes of class tokens


def teach(teacher: Learner, images: jax.Array, key: jax.Array):
    """The lesson, the balance of the patches' prototypes, and what to watch."""
    dice = jax.random.uniform(key, (len(images), 9))
    outer = views.whole(len(images))
    crop = views.crop_inside(dice[:, :4], outer, TEACHER_VIEW.sides, mirrored=False)
    seen = teacher.encode(look(dice[:, 4:], images, crop, TEACHER_VIEW.size))
    patches = teacher.patch_head.embed(seen.patches)
    cosines = teacher.patch_head.compare(patches)
    balanced = balance(cosines)
    whole = teacher.class_head.compare(teacher.class_head.embed(seen.cls))
    lesson = Lesson(images, crop, patches, assign(whole, balance(whole)))
    shares = assign(cosines, balanced)
    metrics = {
        "certainty": shares.max(axis=-1).mean(),
        "used": jnp.exp(entropy(shares.mean(axis=(0, 1, 2)))),
        "spread": unit(seen.patches).std(axis=(0, 1, 2)).mean() * seen.cls.shape[-1] ** 0.5,
    }
    return lesson, balanced, metrics


def learn(student: Learner, teacher: Learner, lesson: Lesson, balanced, view: View, key):
    """The student's losses on patches and class token, of one view of every image of the lesson."""
    grid = view.size // CONFIG["patch_size"]
    dice = jax.random.uniform(key, (len(lesson.images), 10 + grid * grid))
    crop = views.crop_inside(dice[:, :4], lesson.crop, view.sides, mirrored=True)
    mask = views.random_mask(dice[:, 9:], grid, view.masked) if view.masked else None
    seen = student.encode(look(dice[:, 4:9], lesson.images, crop, view.size), mask)

    there = unit(views.resample(lesson.patches, views.seen_from(lesson.crop, crop), grid))
    target = assign(teacher.patch_head.compare(there), balanced)
    said = student.patch_head.compare(student.patch_head.embed(seen.patches))
    whole = student.class_head.compare(student.class_head.embed(seen.cls))
    return cross_entropy(target, said), cross_entropy(lesson.whole, whole)


def look(dice: jax.Array, images: jax.Array, crop: views.Crop, size: int) -> jax.Array:
    return views.recolour(dice, views.resample(images, crop, size))


def standard(x: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 of every channel over the batch: else all cosines start near one."""
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axes) + 1e-5)


def balance(cosines: jax.Array, rounds: int = 3) -> jax.Array:
    """cosines [..., K] -> [K], what to add to logits so that all prototypes get equal shares.

    Sinkhorn-Knopp (Cuturi 2013), with two vectors in place of a rescaled matrix.
    """
    logits = cosines.reshape(-1, cosines.shape[-1]) / TEACHER_HEAT
    mass = jnp.exp(logits - logits.max())
    rows = jnp.ones(len(mass)) / len(mass)
    for _ in range(rounds):
        columns = 1 / (rows @ mass)
        rows = 1 / (mass @ columns)
    return jax.lax.stop_gradient(jnp.log(columns))


def assign(cosines: jax.Array, balanced: jax.Array) -> jax.Array:
    """The teacher's cosines [..., K] -> shares of the prototypes."""
    return jax.lax.stop_gradient(jax.nn.softmax(cosines / TEACHER_HEAT + balanced, axis=-1))


def cross_entropy(target: jax.Array, cosines: jax.Array) -> jax.Array:
    said = cosines / STUDENT_HEAT
    return (jax.nn.logsumexp(said, axis=-1) - jnp.sum(target * said, axis=-1)).mean()


def entropy(shares: jax.Array) -> jax.Array:
    return -jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)))


def judge(plan: Blueprint, teacher, count: int) -> dict[str, float]:
    """What the teacher's patches know by now; no label of this gets into training."""
    encode = jax.jit(lambda weights, images: plan.merge(weights).encode(images / 255.0).patches)
    size = CONFIG["image_size"]
    return patch_probe.probe(lambda x: encode(teacher, x), fit=2 * count, judge=count, size=size)


if __name__ == "__main__":
    main()
