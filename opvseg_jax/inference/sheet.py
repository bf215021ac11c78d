"""Many results at a glance: a contact sheet, and a report that any browser shows without a network.

The report's page embeds its pictures, so it is one file that can be sent or archived.
"""

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from opvseg_jax.core.assets import package_file
from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import writable_folder, write_whole
from opvseg_jax.inference import legend, palette

Picture = Image.Image | np.ndarray  # uint8 [H, W, 3]
MAX_SHEET_SIDE = 16_000  # pixels: what viewers still open


@dataclasses.dataclass(frozen=True)
class Row:
    """Pictures of one scene under their headings, such as "image", "truth", "prediction"."""

    pictures: Mapping[str, Picture]
    caption: str = ""
    groups: Sequence[legend.Group] = ()  # the legend, from `Segmentation.groups()`


@dataclasses.dataclass(frozen=True)
class Table:
    """Figures: a header, rows of as many cells, and a note on how they came about."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"expected {len(self.header)} cells, got {len(row)}: {list(row)}")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A picture that is no scene, with its own heading, and a note on how to read it."""

    title: str
    picture: Picture
    note: str = ""


def contact_sheet(rows: Sequence[Row], *, cell: int = 320) -> Image.Image:
    """All rows below each other, every picture fitted into a square of `cell` pixels at most."""
    headings = _headings(rows)
    gap, font = max(4, cell // 20), max(12, cell // 18)
    heights = [max(_fitted_size(p, cell)[1] for p in row.pictures.values()) for row in rows]
    captions = [2 * font if row.caption else 0 for row in rows]
    size = (
        gap + len(headings) * (cell + gap),
        gap + 2 * font + sum(heights) + sum(captions) + gap * len(rows),
    )
    if max(size) > MAX_SHEET_SIDE:
        raise UserError(
            f"the contact sheet would have {size[0]} x {size[1]} pixels: "
            f"give fewer rows than {len(rows)} or a smaller cell than {cell}"
        )
    sheet = Image.new("RGB", size, legend.PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(headings):
        x = gap + column * (cell + gap)
        legend.write(draw, (x, gap + font // 2), name, font, legend.INK, cell, bold=True)
    y = gap + 2 * font
    for row, height, below in zip(rows, heights, captions, strict=True):
        for name, picture in row.pictures.items():
            # Lanczos both ways: enlarged scenes stay crisp, reduced photos free of stairs.
            fitted = _fitted_size(picture, cell)
            image = _image(picture).resize(fitted, Image.Resampling.LANCZOS)
            x = gap + headings.index(name) * (cell + gap) + (cell - image.width) // 2
            sheet.paste(image, (x, y + (height - image.height) // 2))
        if row.caption:
            at, room = (gap, y + height + font), size[0] - 2 * gap
            legend.write(draw, at, row.caption, font, legend.PALE, room)
        y += height + below + gap
    return sheet


def write_report(
    folder: str | Path,
    title: str,
    rows: Sequence[Row],
    tables: Sequence[Table] = (),
    *,
    lead: str = "",
    charts: Sequence[Chart] = (),
) -> list[Path]:
    """Writes index.html and contact_sheet.png into the folder. -> their paths."""
    folder = writable_folder(folder)
    page = package_file("inference", "report.html").read_text(encoding="utf-8")
    content = {
        "TITLE": html.escape(title),
        "LEAD": f'<p class="lead">{html.escape(lead)}</p>' if lead else "",
        "TABLES": "\n".join([*map(_table, tables), *map(_chart, charts)]),
        "ROWS": _pictures(rows),
    }
    # Filled in one pass, so that a title that speaks of {{ROWS}} stays a title.
    pieces = page.split("{{")
    filled = pieces[0] + "".join(
        content[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:])
    )
    paths = []
    if rows:
        buffer = io.BytesIO()
        contact_sheet(rows).save(buffer, format="PNG")
        paths.append(write_whole(folder / "contact_sheet.png", buffer.getvalue()))
    page_path = write_whole(folder / "index.html", filled.encode(errors="replace"))
    return [page_path, *paths]


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{html.escape(str(cell))}</th>' for cell in table.header)
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(str(row[0]))}</th>'
        + "".join(f"<td>{html.escape(_figure(cell))}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f"<section><h2>{html.escape(table.title)}</h2>\n"
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>{note}</section>"
    )


def _chart(chart: Chart) -> str:
    buffer = io.BytesIO()
    _image(chart.picture).save(buffer, format="PNG", optimize=True)
    note = f'<p class="note">{html.escape(chart.note)}</p>' if chart.note else ""
    return (
        f"<section><h2>{html.escape(chart.title)}</h2>\n"
        f'<figure class="chart"><img src="{_address(buffer, "png")}" '
        f'alt="{html.escape(chart.title)}"></figure>{note}</section>'
    )


def _figure(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return "–"
    return f"{cell:.1f}" if isinstance(cell, float | np.floating) else str(cell)


def _pictures(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return "\n".join(["<section><h2>Pictures</h2>", *map(_row, rows), "</section>"])


def _row(row: Row) -> str:
    figures = "\n".join(
        f'<figure><img src="{_embedded(picture)}" alt="{html.escape(name)}" loading="lazy">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, picture in row.pictures.items()
    )
    caption = f"<h3>{html.escape(row.caption)}</h3>" if row.caption else ""
    groups = "".join(map(_group, row.groups))
    words = f'<ul class="legend">{groups}</ul>' if groups else ""
    return f'<article>{caption}<div class="pictures">{figures}</div>{words}</article>'


def _group(group: legend.Group) -> str:
    parts = "".join(
        f'<span class="part"><i style="background:{palette.to_hex(part.colour)}"></i>'
        f"{html.escape(part.name)}</span>"
        for part in group.parts
    )
    return (
        f'<li><b><i style="background:{palette.to_hex(group.colour)}"></i>'
        f"{html.escape(group.name)}</b> <small>{legend.percent(group.share)}</small> {parts}</li>"
    )


def _embedded(picture: Picture) -> str:
    """A data address. Lines and flat colours suffer from JPEG, hence its best settings.

    Not `optimize`: with that, Pillow gives up on pictures that are full of noise.
    """
    buffer = io.BytesIO()
    _image(picture).save(buffer, format="JPEG", quality=92, subsampling=0)
    return _address(buffer, "jpeg")


def _address(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _headings(rows: Sequence[Row]) -> list[str]:
    headings = list(dict.fromkeys(name for row in rows for name in row.pictures))
    if not headings or not all(row.pictures for row in rows):
        raise UserError("there is nothing to show: give every row at least one picture")
    return headings


def _fitted_size(picture: Picture, cell: int) -> tuple[int, int]:
    """(width, height) that touch the square from inside."""
    size = picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]
    return tuple(max(1, round(side * cell / max(size))) for side in size)


def _image(picture: Picture) -> Image.Image:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return image.convert("RGB")
