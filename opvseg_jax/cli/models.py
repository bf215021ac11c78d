"""`opvseg models`: what `--model` and `opvseg_jax.load` know by name."""

import argparse
import json
import textwrap

HEADER = ("model", "method", "files", "MB", "licence", "on disk")


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "models",
        help="list the models that have a name",
        description="Lists the models by name. What is not on disk is fetched when first used.",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from opvseg_jax.hub.presets import is_on_disk, presets

    rows = [
        (
            preset.name,
            preset.method,
            " + ".join(preset.encoders) or preset.checkpoint or "not published",
            str(preset.megabytes),
            preset.licence,
            "shipped" if preset.is_shipped else "yes" if is_on_disk(preset) else "no",
        )
        for preset in presets().values()
    ]
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    for row in (HEADER, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print()
    for preset in presets().values():
        print(textwrap.fill(f"{preset.name}: {preset.about}", 100, subsequent_indent="  "))
        if preset.figures:
            figures = json.dumps(preset.figures).replace('"', "")
            print(textwrap.fill(f"published: {figures[1:-1]}", 100, initial_indent="  "))
    print("\nFiles of trained methods are fetched by hand, then `opvseg convert` makes a model.")
    print("A folder as HuggingFace publishes CLIP, or OpenAI's .pt file, can be used in place of")
    print("a name. Where files come from: opvseg_jax/hub/models.json.")
    return 0
