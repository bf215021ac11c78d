"""What small transformers need to learn within minutes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib


def wave_positions(grid: int, width: int) -> jax.Array:
    """Sines and cosines of row and column, [1 + grid * grid, width]: neighbours are neighbours
    from the start.

    As strong as the patches themselves; from faint noise a small tower takes long to find shapes.
    """
    waves = np.pi / 2 ** np.linspace(0, np.log2(grid), width // 4)
    angles = np.arange(grid)[:, None] * waves  # [grid, width / 4]
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.repeat(line, grid, axis=0), np.tile(line, (grid, 1))
    table = np.concatenate([rows, columns], axis=1)
    return jnp.asarray(np.concatenate([np.zeros((1, width)), table]), jnp.float32)


def make_optimizer(lr: float, steps: int, weights) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for everything else."""
    pace = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 12, steps)
    groups = {
        "matrix": optax.contrib.muon(lambda step: 10 * pace(step), weight_decay=0.01),
        "other": optax.adamw(pace, b2=0.99, weight_decay=0.01),
    }
    is_matrix = {path: "blocks/" in path and leaf.ndim == 2 for path, leaf in weights.items()}
    labels = {path: "matrix" if yes else "other" for path, yes in is_matrix.items()}
    return optax.partition(groups, labels)
