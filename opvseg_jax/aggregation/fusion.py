"""Expert-driven perceptual learning: fuses the spatial and the class stream of a parallel block.

The streams are projected and put side by side; each of N experts proposes a fusion, and at every
pixel a coefficient mapper says how much each of them counts.

Shapes: B images, T classes, H W grid, C channels, N experts.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.layers import Dense, spread
from opvseg_jax.aggregation.taps import Taps, record
from opvseg_jax.core.batch_norm import BatchNorm
from opvseg_jax.core.layers import gelu
from opvseg_jax.core.shapes import dims


class PairConv(nnx.Module):
    """A 3x3 convolution whose output channel c sees the input channels 2c and 2c + 1.

    As eighteen products of shifted maps, which fuse into one loop; a convolution with C groups of
    two is among the slowest things that can be asked of a convolution library.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(spread(rngs.params(), (3, 3, 2, width), 18))
        self.bias = nnx.Param(spread(rngs.params(), (width,), 18))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., H, W, 2C] -> [..., H, W, C]."""
        *lead, height, width, _ = x.shape
        x = jnp.pad(x, [(0, 0)] * len(lead) + [(1, 1), (1, 1), (0, 0)])
        kernel = self.kernel[...].astype(x.dtype)
        total = self.bias[...].astype(x.dtype)
        for member in range(2):
            half = x[..., member::2]
            for dy in range(3):
                for dx in range(3):
                    moved = half[..., dy : dy + height, dx : dx + width, :]
                    total = total + moved * kernel[dy, dx, member]
        return total


class Expert(nnx.Module):
    """1x1 convolution, batch norm, GELU, grouped 3x3 convolution, GELU: [2C] -> [C] channels."""

    def __init__(self, width: int, *, dtype=None, rngs: nnx.Rngs):
        self.expand = Dense(2 * width, 2 * width, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(2 * width)
        self.conv = PairConv(width, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """x [B, T, H, W, 2C] -> [B, T, H, W, C]."""
        return gelu(self.conv(gelu(self.norm(self.expand(x), train=train, mask=mask))))


class ExpertFusion(nnx.Module):
    """res_scale * residual(X) + sum_j w_j expert_j(X), X = concat(project S, project K)."""

    def __init__(
        self,
        width: int,
        *,
        num_experts: int = 4,
        reduction: int = 4,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        self.spatial = Dense(width, width, **options)
        self.classwise = Dense(width, width, **options)
        self.experts = nnx.List(Expert(width, **options) for _ in range(num_experts))
        self.mapper_in = Dense(2 * width, width // reduction, **options)
        self.mapper_out = Dense(width // reduction, num_experts, **options)
        self.residual = Dense(2 * width, width, **options)
        self.residual_scale = nnx.Param(jnp.asarray(0.5))
        self.width = width

    def __call__(
        self,
        spatial: jax.Array,
        classwise: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        taps: Taps = None,
    ) -> jax.Array:
        """spatial, classwise [B, T, H, W, C] -> [B, T, H, W, C]; mask [B, T]: real classes."""
        b, t, h, w, c = dims(spatial, "B T H W C", C=self.width)
        dims(classwise, "B T H W C", B=b, T=t, H=h, W=w, C=c)
        left, right = self.spatial(spatial), self.classwise(classwise)
        x = jnp.concatenate([left, right], axis=-1)
        scores = self.mapper_out(jax.nn.relu(self.mapper_in(x)))
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=-1)
        residual = self.residual(x)
        fused = self.residual_scale[...].astype(x.dtype) * residual
        for index, expert in enumerate(self.experts):
            opinion = expert(x, train=train, mask=mask)
            record(taps, f"expert_{index}", opinion)
            fused = fused + weights[..., index, None].astype(x.dtype) * opinion
        record(taps, "spatial", left)
        record(taps, "classwise", right)
        record(taps, "coefficients", weights)
        record(taps, "residual", residual)
        return fused


def stream_cosines(spatial: jax.Array, classwise: jax.Array) -> jax.Array:
    """The cosine of the two streams at every pixel, 1e-6 added to each norm: [B, T, H, W]."""
    wide = jnp.promote_types(spatial.dtype, jnp.float32)
    spatial, classwise = spatial.astype(wide), classwise.astype(wide)

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1), 1e-30)) + 1e-6

    return jnp.sum(spatial * classwise, axis=-1) / (norm(spatial) * norm(classwise))


def overlap(
    spatial: jax.Array, classwise: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Over the real classes of all images: mean squared cosine of the streams, and mean cosine.

    The first is the feature-orthogonalisation term: zero when the streams say different things.
    """
    cosines = stream_cosines(spatial, classwise)
    weight = mask[:, :, None, None].astype(cosines.dtype)
    count = jnp.maximum(weight.sum(), 1.0) * cosines.shape[2] * cosines.shape[3]
    return (cosines**2 * weight).sum() / count, (cosines * weight).sum() / count
