"""CAT-Seg's aggregator and decoder in plain eager PyTorch, for `aggregation_speed.py` alone.

Written from the formulas, with published weight names. Layout [B, C, T, H, W] as is usual there.
"""

import torch
import torch.nn.functional as F

HEADS, WINDOW, SHIFT = 4, 12, 6


class TorchHead:
    """Features, texts and guidance in, logits [B, T, 4H, 4W] out; one template, no pooling."""

    def __init__(self, weights: dict):
        self.w = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}

    @torch.inference_mode()
    def __call__(self, features, text, pyramid) -> torch.Tensor:
        w = self.w
        (b, _, h, width), t = features.shape, text.shape[1]
        cost = torch.einsum(
            "bchw,btpc->bpthw", F.normalize(features, dim=1), F.normalize(text, dim=-1)
        )
        x = cost.permute(0, 2, 1, 3, 4).reshape(b * t, -1, h, width)
        x = F.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=3)
        x = x.view(b, t, -1, h, width).transpose(1, 2)  # [B, C, T, H, W]

        guide = self.projected("guidance_projection.0", pyramid[0])
        fine = [
            self.projected(f"decoder_guidance_projection.{i}.0", pyramid[i + 1]) for i in (0, 1)
        ]
        words = F.normalize(text.mean(dim=2), dim=-1)
        words = F.relu(self.linear("text_guidance_projection.0", words))
        for i in range(2):
            x = self.spatial(f"layers.{i}.swin_block.", x, guide)
            x = self.classwise(f"layers.{i}.attention.", x, words)
        return self.decode(x, fine)

    def projected(self, name: str, maps: torch.Tensor) -> torch.Tensor:
        w = self.w
        return F.relu(F.conv2d(maps, w[f"{name}.weight"], w[f"{name}.bias"], padding=1))

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def spatial(self, name: str, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        b, c, t, h, width = x.shape
        x = x.permute(0, 2, 3, 4, 1).reshape(b * t, h * width, c)
        guide = guide.flatten(2).transpose(1, 2).repeat_interleave(t, dim=0)
        guide = self.norm(f"{name}guidance_norm", guide)
        x = self.window_block(f"{name}block_1.", x, guide, (h, width), 0)
        x = self.window_block(f"{name}block_2.", x, guide, (h, width), SHIFT)
        return x.view(b, t, h, width, c).permute(0, 4, 1, 2, 3)

    def window_block(self, name, x, guide, grid, shift: int) -> torch.Tensor:
        n, _, c = x.shape
        both = torch.cat([self.norm(f"{name}norm1", x), guide], dim=-1).view(n, *grid, -1)
        if shift:
            both = both.roll((-shift, -shift), dims=(1, 2))
        both = windows(both)
        q, k = (self.heads(self.linear(f"{name}attn.{part}", both)) for part in "qk")
        v = self.heads(self.linear(f"{name}attn.v", both[..., :c]))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if shift:
            mask = shift_mask(grid).to(scores.dtype)
            scores = scores.view(n, len(mask), *scores.shape[1:]) + mask[None, :, None]
            scores = scores.flatten(0, 1)
        out = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        out = whole(self.linear(f"{name}attn.proj", out), grid)
        if shift:
            out = out.roll((shift, shift), dims=(1, 2))
        x = x + out.reshape(x.shape)
        y = F.gelu(self.linear(f"{name}mlp.fc1", self.norm(f"{name}norm2", x)))
        return x + self.linear(f"{name}mlp.fc2", y)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

    def classwise(self, name: str, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        b, c, t, h, width = x.shape
        y = x.permute(0, 3, 4, 2, 1).reshape(-1, t, c)  # [(B H W), T, C]
        u = self.norm(f"{name}norm1", y)
        guide = words.repeat_interleave(h * width, dim=0)
        both = torch.cat([u, guide], dim=-1)
        q, k = (self.linear(f"{name}attention.{part}", both) for part in "qk")
        q, k, v = (
            part.view(*part.shape[:2], HEADS, -1)
            for part in (q, k, self.linear(f"{name}attention.v", u))
        )
        q, k = F.elu(q) + 1, F.elu(k) + 1
        total = torch.einsum("nlkd,nkd->nlk", q, k.sum(dim=1)) + 1e-6
        mixed = torch.einsum("nlkd,nkde->nlke", q, torch.einsum("nskd,nske->nkde", k, v))
        y = y + (mixed / total[..., None]).flatten(2)
        hidden = F.relu(self.linear(f"{name}MLP.0", self.norm(f"{name}norm2", y)))
        y = y + self.linear(f"{name}MLP.2", hidden)
        return x + y.view(b, h, width, t, c).permute(0, 4, 3, 1, 2)

    def decode(self, x: torch.Tensor, fine: list[torch.Tensor]) -> torch.Tensor:
        b, c, t, h, width = x.shape
        x = x.transpose(1, 2).reshape(b * t, c, h, width)
        for stage, guide in zip((1, 2), fine, strict=True):
            name, w = f"decoder{stage}.", self.w
            x = F.conv_transpose2d(x, w[f"{name}up.weight"], w[f"{name}up.bias"], stride=2)
            x = torch.cat([x, guide.repeat_interleave(t, dim=0)], dim=1)
            for conv, norm in ((0, 1), (3, 4)):
                prefix = f"{name}conv.double_conv."
                x = F.conv2d(x, w[f"{prefix}{conv}.weight"], padding=1)
                scale, bias = w[f"{prefix}{norm}.weight"], w[f"{prefix}{norm}.bias"]
                x = F.relu(F.group_norm(x, x.shape[1] // 16, scale, bias))
        x = F.conv2d(x, self.w["head.weight"], self.w["head.bias"], padding=1)
        return x.view(b, t, *x.shape[2:])


def windows(x: torch.Tensor) -> torch.Tensor:
    """[N, H, W, C] -> [N V, n, C]."""
    n, h, w, c = x.shape
    x = x.view(n, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return x.transpose(2, 3).reshape(-1, WINDOW * WINDOW, c)


def whole(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The inverse, [N, H, W, C]."""
    h, w = grid
    x = x.view(-1, h // WINDOW, w // WINDOW, WINDOW, WINDOW, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, w, x.shape[-1])


def shift_mask(grid: tuple[int, int]) -> torch.Tensor:
    """[V, n, n]: -100 between tokens that only the shift has brought together."""
    bands = [
        (torch.arange(side) >= side - WINDOW).int() + (torch.arange(side) >= side - SHIFT)
        for side in grid
    ]
    label = windows((3 * bands[0][:, None] + bands[1][None])[None, :, :, None])[..., 0]
    return torch.where(label[:, :, None] == label[:, None, :], 0.0, -100.0)
