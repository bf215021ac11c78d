"""What HOPS takes from its encoders: dense features, guidance, and who attends to whom.

Shapes: B images or crops, L layers, N = h * w patches, E embedding.
"""

from collections.abc import Sequence

import jax

from opvseg_jax.aggregation.taps import Taps, record
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.dino import Dino
from opvseg_jax.encoders.severance import Gps
from opvseg_jax.hierarchy.attention_fusion import fuse, resize_attention, stack_layers
from opvseg_jax.methods.hops.sizes import HopsOptions


def clip_features(
    vision: ClipVision, views: jax.Array, *, twice: bool, keep_maps: bool, taps: Taps = None
) -> tuple[jax.Array, list[jax.Array]]:
    """views [B, H, W, 3] -> dense [B, h, w, E], and the maps [B, 1 + N, 1 + N] of every layer.

    The last block passes each patch's own value on. With `twice` it then runs again as it was
    trained, and its map is that of the second run; without, its map is what it would have used.
    """
    last = vision.num_layers - 1
    ordinary = range(last) if keep_maps else ()
    before = (last - 1,) if keep_maps and not twice else ()
    encoded = vision.encode(views, severance={last: Gps()}, hidden=before, attention=ordinary)
    tokens, final = encoded.tokens, vision.blocks[last]
    maps = [encoded.attention[layer] for layer in ordinary]
    if twice and not keep_maps:
        tokens = final(tokens)
    elif keep_maps:
        again, own = final.with_map(tokens if twice else encoded.hidden[last - 1])
        tokens = again if twice else tokens
        maps.append(own.mean(axis=1))
    tokens = vision.project(tokens)
    record(taps, "clip_tokens", tokens)
    record(taps, "clip_maps", maps)
    return vision.split(tokens, vision.grid(views))[1], maps


def dino_features(
    dino: Dino, views: jax.Array, *, keep_maps: bool, taps: Taps = None
) -> tuple[jax.Array, list[jax.Array]]:
    """views [B, H, W, 3] -> patches [B, n, m, C], and the maps of every layer."""
    layers = range(dino.num_layers) if keep_maps else ()
    encoded = dino.encode(views, attention=layers)
    patches = dino.split(dino.norm_post(encoded.tokens), dino.grid(views)).patches
    maps = [encoded.attention[layer] for layer in layers]
    record(taps, "dino_patches", patches)
    record(taps, "dino_maps", maps)
    return patches, maps


def attention_of(
    clip_maps: Sequence[jax.Array],
    dino_maps: Sequence[jax.Array],
    num_registers: int,
    options: HopsOptions,
) -> jax.Array:
    """Maps of both encoders -> the attention [B, L, N, N] that filters and spreads.

    Where one encoder is deeper, its last layers are paired with those of the other. No gradient
    flows through CLIP's maps.
    """
    if options.attention == "clip":
        return jax.lax.stop_gradient(stack_layers(clip_maps))
    count = min(len(clip_maps), len(dino_maps))
    clip = jax.lax.stop_gradient(stack_layers(clip_maps[-count:]))
    dino = stack_layers(dino_maps[-count:], first=1 + num_registers)
    dino = resize_attention(dino, clip.shape[-1])
    if not options.learn_attention:
        dino = jax.lax.stop_gradient(dino)
    if options.attention == "dino":
        return dino
    return fuse(clip, dino, alpha=options.alpha, quantile=options.quantile)
