"""`opvseg demo` and `opvseg doctor`: what a newcomer types first."""

from opvseg_jax.hub import shipped


def test_the_demo_prints_figures_and_writes_a_page(opvseg, tmp_path):
    code, out, err = opvseg("demo", "--out", tmp_path / "demo", "--scenes", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for split, rows in {
        "val_seen": ["seen"],
        "val_unseen": ["all words", "seen", "unseen", "h-IoU"],
    }.items():
        at = lines.index(f"PartWorld {split}") + 1
        assert lines[at].count("shuffled") == 2
        below = lines[at + 1 : at + 1 + len(rows)]
        assert [line.split("  ")[0].strip() for line in below] == rows
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {
        "index.html",
        "contact_sheet.png",
    }
    page = (tmp_path / "demo/index.html").read_text()
    assert "unseen ones are cow, duck, bus, sofa" in page
    assert page.count("<article>") == 4


def test_the_demo_refuses_what_it_cannot_do(opvseg, tmp_path):
    assert opvseg("demo", "--scenes", 0)[0] == 2
    (tmp_path / "file").touch()
    assert opvseg("demo", "--out", tmp_path / "file")[0] == 2


def test_the_doctor_finds_a_sound_installation(opvseg):
    code, out, _ = opvseg("doctor")
    assert code == 0, out
    assert "no problems found" in out
    for word in ("Python", "jax ", "JAX computes on", "cache ", "shipped weights", "segmented"):
        assert word in out


def test_the_doctor_names_changed_weights_and_goes_on(opvseg, monkeypatch):
    changed = dict.fromkeys(shipped.checksums(), "0")
    monkeypatch.setattr(shipped, "checksums", lambda: changed)
    code, out, _ = opvseg("doctor")
    assert code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("PROBLEM")]
    assert "tiny_clip/model.safetensors has been changed" in line
    assert "a drawn scene was segmented" in out
