"""`opvseg demo` and `opvseg doctor`: what a newcomer types first."""

from opvseg_jax.hub import shipped


def test_the_demo_trains_compares_and_writes_a_page(opvseg, tmp_path):
    folder = tmp_path / "demo"
    code, out, err = opvseg("demo", "--out", folder, "--scenes", 2, "--steps", 1)
    assert code == 0, err
    lines = out.splitlines()
    for split, groups in {
        "val_seen": ["seen"],
        "val_unseen": ["all words", "seen", "unseen", "h-IoU"],
    }.items():
        at = lines.index(f"PartWorld {split}") + 1
        rows = [f"{group}: {model}" for group in groups for model in ("training-free", "tiny HOPS")]
        assert lines[at].count("shuffled") == 2
        below = lines[at + 1 : at + 1 + len(rows)]
        assert [line.split("  ")[0].strip() for line in below] == rows
    assert {"index.html", "contact_sheet.png", "hops"} == {path.name for path in folder.iterdir()}
    page = (folder / "index.html").read_text()
    assert "unseen ones are cow, duck, bus, sofa" in page
    assert page.count("<article>") == 4

    code, again, err = opvseg("demo", "--out", folder, "--scenes", 2, "--steps", 1)
    assert code == 0
    assert "goes on after step 1" in err
    assert again.splitlines()[:-1] == lines[:-1]  # the last one says how long it took


def test_without_training_the_demo_shows_one_model(opvseg, tmp_path):
    code, out, err = opvseg("demo", "--out", tmp_path, "--scenes", 1, "--steps", 0)
    assert (code, err) == (0, "")
    assert "training-free" in out
    assert "HOPS" not in out


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
