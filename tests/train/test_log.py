import json
import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.train import speed
from opvseg_jax.train.events import crc32c
from opvseg_jax.train.log import EVAL, TRAIN, Log, Wandb, read_rows


def write(folder, steps, **options):
    log = Log(folder, **options)
    for step in steps:
        log.row(step, TRAIN, {"loss": 1 / step}, {"images_per_second": 3.0})
        if step % 2 == 0:
            log.row(step, EVAL, {"h-IoU": float(step)})
    log.close()


def test_going_on_leaves_no_row_twice(tmp_path):
    write(tmp_path, (1, 2, 3, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "ki')  # killed while it wrote
    write(tmp_path, (3, 4, 5), step=2, evaluated=2)
    rows = read_rows(tmp_path)
    assert [row["step"] for row in rows if row["kind"] == TRAIN] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if row["kind"] == EVAL] == [2, 4]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_an_evaluation_that_no_checkpoint_knows_is_written_anew(tmp_path):
    write(tmp_path, (1, 2))
    log = Log(tmp_path, step=2, evaluated=0)
    log.row(2, EVAL, {"h-IoU": 2.0})
    log.close()
    assert [row["kind"] for row in read_rows(tmp_path)] == [TRAIN, TRAIN, EVAL]


def test_what_is_not_finite_is_null(tmp_path):
    log = Log(tmp_path)
    log.row(1, TRAIN, {"loss": float("nan")})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None


def test_crc32c_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def records(path):
    """The events of a file, their checksums looked at."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = content[12 : 12 + length]
        for piece, at in ((content[:8], 8), (event, 12 + length)):
            crc = crc32c(piece)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack("<I", content[at : at + 4]) == (masked,)
        found.append(fields(event))
        content = content[16 + length :]
    return found


def fields(message):
    """{number: value} of a protocol buffer message, read by its wire types."""

    def varint(place):
        value = shift = 0
        while True:
            byte = message[place]
            value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
            if byte < 0x80:
                return value, place

    found, place = {}, 0
    while place < len(message):
        key, place = varint(place)
        if key & 7 == 0:
            found[key >> 3], place = varint(place)
        elif key & 7 == 2:
            length, place = varint(place)
            found[key >> 3], place = message[place : place + length], place + length
        else:
            code, size = {1: ("<d", 8), 5: ("<f", 4)}[key & 7]
            (found[key >> 3],) = struct.unpack(code, message[place : place + size])
            place += size
    return found


def test_tensorboard_can_read_scalars_and_pictures(tmp_path):
    log = Log(tmp_path, step=300)
    log.row(301, TRAIN, {"loss": 0.25})
    log.picture(302, Image.fromarray(np.zeros((5, 7, 3), np.uint8)))
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert ".tfevents." in path.name
    version, session, scalar, picture = records(path)
    assert version[3] == b"brain.Event:2"
    assert (session[2], fields(session[7])) == (301, {1: 1})  # what older files say from here on
    assert scalar[2] == 301
    assert fields(fields(scalar[5])[1]) == {1: b"train/loss", 2: 0.25}
    image = fields(fields(fields(picture[5])[1])[4])
    assert (image[1], image[2], image[4][:4]) == (5, 7, b"\x89PNG")
    assert (tmp_path / "pictures/0000302.png").is_file()


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        Log(tmp_path)


def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    begun, logged = [], []

    def init(**options):
        begun.append(options["id"])
        log = lambda values, step: logged.append((step, values))  # noqa: E731
        return types.SimpleNamespace(id="abc", log=log, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Image=lambda x: x))
    for step in (0, 1):
        log = Log(tmp_path, step, sinks=(Wandb(tmp_path, "project", {}),))
        log.row(step + 1, TRAIN, {"loss": 1.0})
        log.close()
    assert begun == [None, "abc"]
    assert logged == [(1, {"train/loss": 1.0}), (2, {"train/loss": 1.0})]


def test_wandb_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"opvseg_jax\[wandb\]"):
        Wandb(tmp_path, "project", {})


def test_speed_leaves_out_the_first_step_and_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    meter = speed.Meter(4, operations=100.0, peak=1000.0)
    now[0] += 50  # compiling
    meter.step()
    for _ in range(2):
        now[0] += 1
        meter.step()
    with meter.pause():
        now[0] += 30
    found = meter.read()
    assert found["images_per_second"] == 4
    assert found["seconds_per_step"] == 1
    assert found["share_of_peak"] == pytest.approx(0.1)


def test_the_peak_is_known_of_known_devices_alone():
    assert speed.peak_of("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert speed.peak_of("NVIDIA H100 PCIe", "float32") == 378e12
    assert speed.peak_of("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert speed.peak_of("cpu", "float32") is None
