"""Writes the small files in torch_files/: what PyTorch 2.13.0 saves.

Run with the packages torch and numpy: python tests/port/make_torch_files.py
"""

import argparse
import collections
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(__file__).with_name("torch_files")


def arrays() -> dict[str, torch.Tensor]:
    """One tensor of each kind that files hold; their values are counted, not drawn."""
    count = torch.arange(24, dtype=torch.float32)
    return collections.OrderedDict(
        plain=count.reshape(2, 3, 4),
        transposed=count.reshape(4, 6).T,
        rows=count.reshape(6, 4)[1:5:2, 1:3],
        expanded=torch.tensor([7.0]).expand(3, 2),
        half=count.half() / 8,
        bfloat=count.bfloat16() / 8,
        double=count.double() / 3,
        long=torch.arange(5) - 2,
        byte=torch.arange(5, dtype=torch.uint8),
        flags=torch.tensor([True, False, True]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=nn.Parameter(count[:3]),
    )


class Block(nn.Module):
    def __init__(self, start: float):
        super().__init__()
        self.norm = nn.LayerNorm(2)
        self.proj = nn.Parameter(start + torch.arange(4.0).reshape(2, 2))
        self.register_buffer("size", torch.tensor(7))
        self.heads = 3

    def forward(self, x):
        return self.norm(x) @ self.proj * self.heads


class Net(nn.Module):
    """Nested as CLIP's towers are: attributes, a Sequential, a tensor at the root."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(Block(0.0), Block(10.0))
        self.scale = nn.Parameter(torch.tensor(4.5))

    def forward(self, x):
        return self.visual(x) * self.scale


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    tensors = arrays()
    wrapped = {
        "model": {f"module.{name}": tensor for name, tensor in tensors.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(width=8, device=torch.device("cpu")),
        "iteration": 12,
    }
    torch.save(tensors, FOLDER / "flat.pth")
    torch.save(wrapped, FOLDER / "training.pth")
    torch.save(wrapped, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(Block(0.0), FOLDER / "module.pth")
    net = Net().eval()
    torch.jit.save(torch.jit.script(net), FOLDER / "scripted.pt")
    torch.jit.save(torch.jit.trace(net.half(), torch.ones(1, 2).half()), FOLDER / "traced.pt")


if __name__ == "__main__":
    main()
