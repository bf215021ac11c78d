"""The published sizes of CLIP and DINOv2, and sizes read from a Transformers `config.json`."""

import dataclasses
from collections.abc import Mapping

from flax import nnx

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.layers import ACTIVATIONS
from opvseg_jax.encoders import port_clip, port_dino
from opvseg_jax.encoders.clip import Clip
from opvseg_jax.encoders.clip_text import ClipText
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.dino import Dino
from opvseg_jax.encoders.positions import (
    DINOV2,
    DINOV2_REGISTERS,
    HUGGINGFACE,
    PositionRule,
)
from opvseg_jax.port.rules import Rules


@dataclasses.dataclass(frozen=True)
class Tower:
    """One transformer."""

    width: int
    num_layers: int
    num_heads: int
    mlp_dim: int


@dataclasses.dataclass(frozen=True)
class ClipSize:
    """Both towers of a CLIP; `repository` is its home on HuggingFace."""

    image_size: int
    patch_size: int
    vision: Tower
    text: Tower
    embed_dim: int
    repository: str = ""
    vocab_size: int = 49408
    context: int = 77
    end_token: int | None = None  # None: the largest id of a text
    vision_activation: str = "quick_gelu"
    text_activation: str = "quick_gelu"
    epsilon: float = 1e-5
    huggingface_rules = port_clip.HUGGINGFACE

    def build(
        self, *, position_rule: PositionRule = HUGGINGFACE, dtype=None, rngs: nnx.Rngs
    ) -> Clip:
        """A new model of this size."""
        vision = self.build_vision(position_rule=position_rule, dtype=dtype, rngs=rngs)
        return Clip(vision, self.build_text(dtype=dtype, rngs=rngs))

    def build_vision(
        self, *, position_rule: PositionRule = HUGGINGFACE, dtype=None, rngs: nnx.Rngs
    ) -> ClipVision:
        """Its image tower alone."""
        return ClipVision(
            image_size=self.image_size,
            patch_size=self.patch_size,
            **dataclasses.asdict(self.vision),
            embed_dim=self.embed_dim,
            activation=self.vision_activation,
            epsilon=self.epsilon,
            position_rule=position_rule,
            dtype=dtype,
            rngs=rngs,
        )

    def build_text(self, *, dtype=None, rngs: nnx.Rngs) -> ClipText:
        """Its text tower alone."""
        return ClipText(
            vocab_size=self.vocab_size,
            context=self.context,
            **dataclasses.asdict(self.text),
            embed_dim=self.embed_dim,
            activation=self.text_activation,
            end_token=self.end_token,
            epsilon=self.epsilon,
            dtype=dtype,
            rngs=rngs,
        )


@dataclasses.dataclass(frozen=True)
class DinoSize:
    """A DINOv2; `repository` is its home on HuggingFace, `file` its name at Meta."""

    tower: Tower
    swiglu: bool = False
    num_registers: int = 0
    image_size: int = 518
    patch_size: int = 14
    epsilon: float = 1e-6
    repository: str = ""
    file: str = ""

    @property
    def huggingface_rules(self) -> Rules:
        return port_dino.HUGGINGFACE_SWIGLU if self.swiglu else port_dino.HUGGINGFACE

    @property
    def meta_rules(self) -> Rules:
        return port_dino.META_SWIGLU if self.swiglu else port_dino.META

    @property
    def original_rule(self) -> PositionRule:
        """How Meta's own code resizes positions: without registers not as Transformers does."""
        return DINOV2_REGISTERS if self.num_registers else DINOV2

    @property
    def huggingface_rule(self) -> PositionRule:
        """How Transformers resizes positions."""
        return DINOV2_REGISTERS if self.num_registers else HUGGINGFACE

    def build(
        self, *, position_rule: PositionRule | None = None, dtype=None, rngs: nnx.Rngs
    ) -> Dino:
        """A new model of this size; positions as Transformers resizes them, unless told."""
        return Dino(
            image_size=self.image_size,
            patch_size=self.patch_size,
            **dataclasses.asdict(self.tower),
            num_registers=self.num_registers,
            swiglu=self.swiglu,
            epsilon=self.epsilon,
            position_rule=position_rule or self.huggingface_rule,
            dtype=dtype,
            rngs=rngs,
        )


BASE, LARGE = Tower(768, 12, 12, 3072), Tower(1024, 24, 16, 4096)
TEXT_512, TEXT_768 = Tower(512, 12, 8, 2048), Tower(768, 12, 12, 3072)

CLIP = {
    "B/32": ClipSize(224, 32, BASE, TEXT_512, 512, "openai/clip-vit-base-patch32"),
    "B/16": ClipSize(224, 16, BASE, TEXT_512, 512, "openai/clip-vit-base-patch16"),
    "L/14": ClipSize(224, 14, LARGE, TEXT_768, 768, "openai/clip-vit-large-patch14"),
    "L/14@336": ClipSize(336, 14, LARGE, TEXT_768, 768, "openai/clip-vit-large-patch14-336"),
}


def _dinov2_sizes() -> dict[str, DinoSize]:
    towers = {
        "S/14": ("small", Tower(384, 12, 6, 1536)),
        "B/14": ("base", BASE),
        "L/14": ("large", LARGE),
        "g/14": ("giant", Tower(1536, 40, 24, 4096)),
    }
    sizes = {}
    for name, (word, tower) in towers.items():
        swiglu, letter = name == "g/14", name[0].lower()
        plain = f"facebook/dinov2-{word}", f"dinov2_vit{letter}14_pretrain.pth"
        more = f"facebook/dinov2-with-registers-{word}", f"dinov2_vit{letter}14_reg4_pretrain.pth"
        for suffix, registers, (repository, file) in (("", 0, plain), ("-registers", 4, more)):
            sizes[name + suffix] = DinoSize(
                tower, swiglu, registers, repository=repository, file=file
            )
    return sizes


DINOV2_SIZES = _dinov2_sizes()


def swiglu_dim(width: int, mlp_ratio: float = 4) -> int:
    """The hidden size of DINOv2's gated feed-forward: two thirds, up to a multiple of 8."""
    return (int(int(width * mlp_ratio) * 2 / 3) + 7) // 8 * 8


def from_hf_config(config: Mapping) -> ClipSize | DinoSize:
    """The size that a `config.json` describes; keys left out have Transformers' defaults."""
    kind = config.get("model_type")
    if kind == "clip":
        return _clip_size(config)
    if kind in ("dinov2", "dinov2_with_registers"):
        return _dino_size(config)
    raise UserError(
        f"config.json is of a {kind!r}: expected model_type clip, dinov2 or dinov2_with_registers"
    )


def _clip_size(config: Mapping) -> ClipSize:
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    epsilons = {tower.get("layer_norm_eps", 1e-5) for tower in (vision, text)}
    if len(epsilons) > 1:
        raise UserError(f"the towers have different layer_norm_eps ({epsilons}): not supported")
    end = text.get("eos_token_id", 49407)
    return ClipSize(
        image_size=vision.get("image_size", 224),
        patch_size=vision.get("patch_size", 32),
        vision=_tower(vision, Tower(768, 12, 12, 3072)),
        text=_tower(text, Tower(512, 12, 8, 2048)),
        embed_dim=config.get("projection_dim", 512),
        vocab_size=text.get("vocab_size", 49408),
        context=text.get("max_position_embeddings", 77),
        end_token=None if end == 2 else end,  # 2 is a relic in old files: the largest id is meant
        vision_activation=_activation(vision, "quick_gelu"),
        text_activation=_activation(text, "quick_gelu"),
        epsilon=epsilons.pop(),
    )


def _dino_size(config: Mapping) -> DinoSize:
    if not config.get("qkv_bias", True) or _activation(config, "gelu") != "gelu":
        raise UserError(
            "expected a DINOv2 with qkv_bias and exact gelu, as all published ones have"
        )
    width = config.get("hidden_size", 768)
    ratio, swiglu = config.get("mlp_ratio", 4), config.get("use_swiglu_ffn", False)
    has_registers = config["model_type"] == "dinov2_with_registers"
    return DinoSize(
        tower=Tower(
            width=width,
            num_layers=config.get("num_hidden_layers", 12),
            num_heads=config.get("num_attention_heads", 12),
            mlp_dim=swiglu_dim(width, ratio) if swiglu else int(width * ratio),
        ),
        swiglu=swiglu,
        num_registers=config.get("num_register_tokens", 4) if has_registers else 0,
        image_size=config.get("image_size", 224),
        patch_size=config.get("patch_size", 14),
        epsilon=config.get("layer_norm_eps", 1e-6),
    )


def _tower(config: Mapping, default: Tower) -> Tower:
    return Tower(
        width=config.get("hidden_size", default.width),
        num_layers=config.get("num_hidden_layers", default.num_layers),
        num_heads=config.get("num_attention_heads", default.num_heads),
        mlp_dim=config.get("intermediate_size", default.mlp_dim),
    )


def _activation(config: Mapping, default: str) -> str:
    name = config.get("hidden_act", default)
    if name not in ACTIVATIONS:
        raise UserError(f"hidden_act {name!r} is not supported: {', '.join(ACTIVATIONS)}")
    return name
