"""The contact sheet and the report that `opvseg demo` writes."""

import base64
import html.parser
import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference import legend, sheet

RED, BLUE = (200, 0, 0), (0, 0, 200)


def row(caption="a dog", size=(60, 80)) -> sheet.Row:
    truth = np.full((*size, 3), RED, np.uint8)
    part = legend.Entry(0, "head", (1, 2, 3), 0.1)
    group = legend.Group(0, "dog <b>", (10, 20, 30), 0.25, (part,))
    return sheet.Row(
        {"truth": truth, "prediction": Image.new("RGB", size[::-1], BLUE)}, caption, [group]
    )


class Page(html.parser.HTMLParser):
    """Tags in order, text, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_pictures_stand_under_their_headings():
    picture = np.asarray(sheet.contact_sheet([row(), row("", (80, 60))], cell=100))
    assert picture.shape[1] == 3 * 5 + 2 * 100
    middle = picture[5 + 24 + 37]
    assert tuple(middle[5 + 50]) == RED
    assert tuple(middle[5 + 100 + 5 + 50]) == BLUE
    assert tuple(middle[2]) == (255, 255, 255)


def test_a_missing_picture_leaves_its_place_empty():
    rows = [row(), sheet.Row({"prediction": Image.new("RGB", (50, 50), BLUE)})]
    picture = np.asarray(sheet.contact_sheet(rows, cell=100))
    last = picture[-50]
    assert tuple(last[55]) == (255, 255, 255)
    assert tuple(last[160]) == BLUE


def test_a_sheet_without_or_with_too_many_pictures_is_refused():
    with pytest.raises(UserError, match="nothing to show"):
        sheet.contact_sheet([])
    with pytest.raises(UserError, match="fewer rows than 500"):
        sheet.contact_sheet([row()] * 500)


def test_the_report_is_one_page_that_needs_nothing_else(tmp_path):
    table = sheet.Table(
        "IoU", ["words", "seen", "unseen"], [["objects", 51.26, float("nan")]], "n=3"
    )
    paths = sheet.write_report(
        tmp_path / "demo", "A <demo>", [row("cat & dog")], [table], lead="Hi"
    )
    assert [path.name for path in paths] == ["index.html", "contact_sheet.png"]
    assert sorted(os.listdir(tmp_path / "demo")) == ["contact_sheet.png", "index.html"]
    text = paths[0].read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "http" not in text
    for words in ("A <demo>", "Hi", "cat & dog", "dog <b>", "head", "25%", "51.3", "–", "n=3"):
        assert words in page.text
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    colours = []
    for source in sources:
        content = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
        colours.append(Image.open(io.BytesIO(content)).getpixel((40, 30)))
    assert len(colours) == 2
    assert np.abs(np.subtract(colours, [RED, BLUE])).max() < 4
    styles = [attributes.get("style") for tag, attributes in page.tags if tag == "i"]
    assert styles == ["background:#0a141e", "background:#010203"]


def test_words_that_look_like_places_in_the_page_stay_words(tmp_path):
    (path,) = sheet.write_report(tmp_path, "{{ROWS}} and {{LEAD}}", [], lead="{{TITLE}}")
    assert "{{ROWS}} and {{LEAD}}" in Page(path.read_text(encoding="utf-8")).text


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it is a file"):
        sheet.write_report(tmp_path / "file", "t", [row()])


def test_a_table_with_a_missing_cell_is_refused():
    with pytest.raises(ValueError, match="expected 2 cells, got 1"):
        sheet.Table("t", ["a", "b"], [["x"]])


def test_pictures_of_noise_and_charts_are_embedded_too(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (480, 480, 3), np.uint8)
    charts = [sheet.Chart("A chart", noise[:9, :9], "how to read it")]
    page, *_ = sheet.write_report(tmp_path, "noise", [sheet.Row({"image": noise})], charts=charts)
    text = page.read_text()
    assert text.count("data:image/jpeg") == text.count("data:image/png") == 1
    assert "how to read it" in text
    page, *others = sheet.write_report(tmp_path / "no pictures", "charts alone", [], charts=charts)
    assert others == []
    assert "<h2>Pictures" not in page.read_text()
