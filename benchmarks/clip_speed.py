"""CLIP ViT-B/16 image encoding at 384 px in float32: this library beside PyTorch eager.

    python benchmarks/clip_speed.py [--batch 1 4] [--rounds 15] [--size B/16] [--pixels 384]

Both run the same random weights in one process; the results must agree before a time counts. They
take turns, round by round, so that a busy moment meets both. Reported: median wall and the median
of the processor time of all threads, and their ratios. Needs `pip install torch==2.13.0`.

"pooled" is the image embedding; "dense" is every token after an ordinary last block; "gps" every
token with the last block's attention severed (the features that segmentation uses).
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from opvseg_jax.core.weights import blueprint, flatten
from opvseg_jax.encoders import port_clip
from opvseg_jax.encoders.sizes import CLIP, ClipSize
from opvseg_jax.port.rules import publish

MODES = ("pooled", "dense", "gps")


class TorchTower:
    """CLIP's image tower in plain eager PyTorch, from weights under OpenAI's names."""

    def __init__(self, weights: dict[str, np.ndarray], size: ClipSize):
        self.w = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        self.size, self.heads = size, size.vision.num_heads
        self.positions = {}  # resized once for each grid, as a careful user would

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, mode: str) -> torch.Tensor:
        w, width = self.w, self.size.vision.width
        x = F.conv2d(images, w["conv1.weight"], stride=self.size.patch_size)
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        first = w["class_embedding"].expand(len(x), 1, width)
        x = self.norm(torch.cat([first, x], dim=1) + self.positions_for(grid), "ln_pre")
        last = self.size.vision.num_layers - 1
        for i in range(last + 1):
            x = self.block(x, f"transformer.resblocks.{i}.", severed=mode == "gps" and i == last)
        x = x[:, 0] if mode == "pooled" else x
        return self.norm(x, "ln_post") @ w["proj"]

    def block(self, x: torch.Tensor, name: str, *, severed: bool) -> torch.Tensor:
        w, (b, n, c) = self.w, x.shape
        y = self.norm(x, name + "ln_1")
        weight, bias = w[name + "attn.in_proj_weight"], w[name + "attn.in_proj_bias"]
        if severed:
            y = F.linear(y, weight[2 * c :], bias[2 * c :])
        else:
            packed = F.linear(y, weight, bias).view(b, n, 3, self.heads, -1)
            q, k, v = packed.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.linear(y, name + "attn.out_proj")
        y = self.linear(self.norm(x, name + "ln_2"), name + "mlp.c_fc")
        return x + self.linear(y * torch.sigmoid(1.702 * y), name + "mlp.c_proj")

    def positions_for(self, grid: tuple[int, int]) -> torch.Tensor:
        if grid not in self.positions:
            table = self.w["positional_embedding"]
            side = self.size.image_size // self.size.patch_size
            image = table[1:].T.reshape(1, -1, side, side)
            image = F.interpolate(image, grid, mode="bicubic", align_corners=False)
            self.positions[grid] = torch.cat([table[:1], image.flatten(2)[0].T])
        return self.positions[grid]

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.w[name + ".weight"], self.w[name + ".bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.size.epsilon)

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.w[name + ".weight"], self.w[name + ".bias"])


def ours(size: ClipSize):
    """The jitted function (leaves, images, mode), and its leaves."""
    build = lambda: size.build_vision(rngs=nnx.Rngs(0))  # noqa: E731
    plan, leaves = blueprint(build), flatten(jax.jit(build)())

    def run(leaves, images, mode):
        tower = plan.merge(leaves)
        if mode == "pooled":
            return tower.pooled(images)
        cls, patches = tower.dense(images, last="plain" if mode == "dense" else "gps")
        flat = patches.reshape(len(patches), -1, patches.shape[-1])
        return jnp.concatenate([cls[:, None], flat], axis=1)

    return jax.jit(run, static_argnames="mode"), leaves


def measure(calls: dict, rounds: int) -> dict[str, tuple[float, float]]:
    """{name: (median wall ms, median processor ms)}, the calls taking turns."""
    seen = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: tuple(1e3 * statistics.median(column) for column in zip(*times, strict=True))
        for name, times in seen.items()
    }


def compare(jitted, leaves: dict, reference: TorchTower, images: np.ndarray, mode: str, rounds):
    """One row of the table: images [B, H, W, 3]."""
    mine = jnp.asarray(images)
    theirs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    difference = np.abs(jitted(leaves, mine, mode) - reference(theirs, mode).numpy()).max()
    if not difference < 1e-4:
        raise SystemExit(f"{mode}: the two differ by {difference}, so no time counts")
    times = measure(
        {
            "jax": lambda: jax.block_until_ready(jitted(leaves, mine, mode)),
            "torch": lambda: reference(theirs, mode),
        },
        rounds,
    )
    (wall, cpu), (torch_wall, torch_cpu) = times["jax"], times["torch"]
    print(
        f"{mode:8} batch {len(images):<2}{wall:9.0f}{torch_wall:9.0f}"
        f"{wall / torch_wall:7.2f}{cpu / torch_cpu:11.2f}{difference:12.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", default="B/16", choices=CLIP)
    parser.add_argument("--pixels", type=int, default=384)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    args = parser.parse_args()

    size = CLIP[args.size]
    jitted, leaves = ours(size)
    reference = TorchTower(publish(port_clip.OPENAI_VISION, leaves), size)
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'':16}{'jax ms':>9}{'torch ms':>9}{'ratio':>7}{'cpu ratio':>11}{'worst diff':>12}")
    random = np.random.default_rng(0)
    for batch in args.batch:
        images = random.normal(size=(batch, args.pixels, args.pixels, 3)).astype(np.float32)
        for mode in args.modes:
            compare(jitted, leaves, reference, images, mode, args.rounds)


if __name__ == "__main__":
    main()
