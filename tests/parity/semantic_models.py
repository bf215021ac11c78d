"""Whole models that are built as CAT-Seg is: sizes, predictions and training steps."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.core.image import resize
from opvseg_jax.core.weights import blueprint, flatten
from opvseg_jax.methods.catseg import predict
from opvseg_jax.methods.catseg.sizes import CatSegSize
from opvseg_jax.port.rules import convert, publish
from parity.aggregation_cases import maps, pair, to_maps
from parity.harness import Case


def size_with(case: Case, clip, **head) -> CatSegSize:
    """The size of a case, whose encoders are `clip`."""
    c = case.config
    h, pooling = c["head"], pair(c["pooling"])
    size = HeadSize(
        embed_dim=clip.embed_dim,
        hidden=h["hid"],
        num_heads=h["heads"],
        num_layers=h["layers"],
        window=c["window"],
        text_guidance=h["tp"],
        appearance_in=clip.embed_dim,
        appearance=h["ap"],
        decoder=tuple(h["dec"]),
        decoder_in=tuple(h["dg"]),
        decoder_guidance=tuple(h["dgp"]),
        class_limit=c["pad_len"],
        **head,
    )
    return CatSegSize(
        clip=clip,
        head=size,
        image_size=c["clip_resolution"][0],
        hooks=tuple(c["hook_layers"]),
        train_pooling=pooling,
        test_pooling=pooling,
    )


def run_full(case: Case, build, rules, weights: dict):
    """Pixels and tokens -> scores, plain or sliding; the taps; which views were recorded."""
    plan = blueprint(build)
    leaves = convert(rules, weights, plan.shapes)
    size = tuple(int(side) for side in case.tensors["in.output_size"])
    is_sliding = case.tensors["mid.logits"].shape[0] > 1

    @jax.jit
    def run(leaves, image, tokens):
        model, taps = plan.merge(leaves), {}
        text = model.encode_tokens(tokens[:, None])
        mode = Mode(model.size.test_pooling)

        def score(views):
            taps["logits"] = model.logits(views, text, None, mode, taps)
            return taps["logits"]

        side = model.size.image_size
        if is_sliding:
            scores = predict.sliding(score, image, side, model.size.sliding)
        else:
            scores = predict.plain(score, image, side)
        return resize(scores, size)[0], text, taps

    image, tokens = maps(case.tensors["in.image"][None]), jnp.asarray(case.tensors["in.tokens"])
    scores, text, taps = run(leaves, image, tokens)

    def shown(x):  # of five views the reference recorded the first and the last
        return jnp.concatenate([x[:1], x[-1:]]) if is_sliding else x

    out = {
        "out.sem_seg": scores.transpose(2, 0, 1),
        "out.argmax": labels_of(np.asarray(scores), case.tensors["out.argmax"]),
        "mid.logits": taps["logits"],
        "mid.text_features": text,
    }
    for name, grid in zip("ab", taps["hidden"], strict=True):
        out[f"mid.layer_{name}_tokens_grid"] = shown(to_maps(grid))
    return out, taps, shown


def labels_of(scores: np.ndarray, recorded: np.ndarray, tie: float = 2e-5) -> np.ndarray:
    """The best class of scores [H, W, T]; at a tie, which rounding decides, the recorded one."""
    best, labels = scores.max(axis=-1), scores.argmax(axis=-1)
    its_score = np.take_along_axis(scores, recorded[..., None].astype(int), axis=-1)[..., 0]
    return np.where(its_score >= best - tie, recorded, labels).astype(recorded.dtype)


class Step(NamedTuple):
    """What a training step gave: results under recorded names, losses and leaves under ours."""

    out: dict
    losses: dict
    after: dict


def rate_of(path: str, rates) -> float:
    """The learning rate factor that the table gives to a leaf."""
    return next(rate for pattern, rate in rates if re.fullmatch(pattern, path))


def run_train_step(case: Case, build, rules, rates, weights: dict) -> Step:
    """Losses and the gradients of everything that trains.

    In float64: in float32 both sides differ by up to 4e-4 where a gradient has passed the
    normalisation of the features, and by percents in sums that cancel (the scale of a residual).
    """
    with jax.enable_x64(True):
        return _train_step(case, build, rules, rates, weights)


def _train_step(case: Case, build, rules, rates, weights: dict) -> Step:
    plan = blueprint(build)
    leaves = convert(rules, weights, plan.shapes, dtype=np.float64)
    state = {path for path in leaves if path.endswith(("norm/mean", "norm/variance"))}
    trained = {path: x for path, x in leaves.items() if rate_of(path, rates) and path not in state}
    frozen = {path: x for path, x in leaves.items() if path not in trained}

    def loss(trained, frozen, images, labels, tokens):
        model, taps = plan.merge(trained | frozen), {}
        text = model.encode_tokens(tokens[:, None])
        losses = model.losses(images, labels, text, taps=taps)
        return sum(losses.values()), (losses, taps["logits"], flatten(model))

    images = maps(case.tensors["in.images"].astype(np.float64))
    labels, tokens = (jnp.asarray(case.tensors[f"in.{name}"]) for name in ("labels", "tokens"))
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    gradients, (losses, logits, after) = gradient(trained, frozen, images, labels, tokens)
    gradients = {path: np.asarray(x, np.float64) for path, x in gradients.items()}
    total = np.sqrt(sum((x**2).sum() for x in gradients.values()))
    out = {"mid.logits": logits, "out.total_grad_norm": total}
    for name, value in publish(rules, gradients).items():
        out |= {f"out.grad.{name}": value, f"out.grad_norm.{name}": np.linalg.norm(value)}
    untouched = {name for name in out if name.startswith("out.grad_norm.")} - set(case.wanted())
    assert not untouched, f"trained here, frozen in the reference: {sorted(untouched)}"
    return Step(jax.tree.map(np.asarray, out), losses, after)
