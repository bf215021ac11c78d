"""Fetching models: what is here is used, what is not is told, and a local hub serves the rest."""

import contextlib
import hashlib
import http.server
import json
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from opvseg_jax.core.errors import UserError
from opvseg_jax.hub.download import CONFIG, TOKENIZER, WEIGHTS, absent, fetch, local_path

REPOSITORY = "owner/tiny-clip"
GROUPS = (CONFIG, WEIGHTS, TOKENIZER)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> Path:
    """Both caches empty, and no way to the network."""
    monkeypatch.setenv("OPVSEG_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens on discard
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _put(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


@contextlib.contextmanager
def _hub(files: dict[str, bytes], monkeypatch, repository=REPOSITORY):
    """A HuggingFace that has one repository. Yields the paths that were asked for."""
    commit, asked = "c" * 40, []
    sums = {name: hashlib.sha1(data).hexdigest() for name, data in files.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            api, resolve = f"/api/models/{repository}", f"/{repository}/resolve/"
            if self.path.startswith(f"{api}/tree/"):
                self.answer(
                    json.dumps(
                        [
                            {"type": "file", "path": name, "size": len(data), "oid": sums[name]}
                            for name, data in files.items()
                        ]
                    ).encode()
                )
            elif self.path.split("?")[0] in (api, f"{api}/revision/main"):
                siblings = [{"rfilename": name} for name in files]
                self.answer(
                    json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
                )
            elif self.path.startswith(resolve) and self.path.split("/")[-1] in files:
                name = self.path.split("/")[-1]
                self.answer(files[name], ETag=f'"{sums[name]}"', **{"X-Repo-Commit": commit})
            else:
                self.answer(b"{}", 404, **{"X-Error-Code": "RepoNotFound"})

        def do_HEAD(self):
            self.do_GET()

        def answer(self, body: bytes, status: int = 200, **headers: str):
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *ignored):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_users_own_folder_comes_first(caches):
    own = caches / "own" / "models" / "owner--tiny-clip"
    _put(own, config__json="{}", model__safetensors="x", vocab__json="{}", merges__txt="")
    assert fetch(REPOSITORY, *GROUPS) == own


def test_without_a_network_one_sentence_says_what_to_put_where_and_at_once(caches):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        fetch(REPOSITORY, *GROUPS)
    assert time.monotonic() - began < 5  # the library's retries would take 23 s
    message = str(caught.value)
    assert message.startswith("owner/tiny-clip is not on this machine and could not be fetched (")
    for word in ("config.json", "model.safetensors (or ", "tokenizer.json (or vocab.json)"):
        assert word in message
    assert str(caches / "own" / "models" / "owner--tiny-clip") in message
    assert "or give the path of a folder that has them" in message
    assert "\n" not in message


def test_what_lies_there_already_is_not_asked_for_again(caches):
    own = caches / "own" / "models" / "owner--tiny-clip"
    _put(own, config__json="{}", vocab__json="{}")
    with pytest.raises(UserError) as caught:
        fetch(REPOSITORY, *GROUPS)
    assert "download model.safetensors (or " in str(caught.value)
    assert "and merges.txt of the HuggingFace repository owner/tiny-clip" in str(caught.value)


def test_the_offline_switch_is_honoured(monkeypatch):
    with _hub({"config.json": b"{}"}, monkeypatch) as asked:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set: download config"):
            fetch(REPOSITORY, CONFIG)
    assert asked == []


def test_the_best_files_are_fetched_once(monkeypatch):
    files = {
        "config.json": b'{"model_type": "clip"}',
        "preprocessor_config.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"weights again",
        "vocab.json": b"{}",
        "merges.txt": b"",
        "flax_model.msgpack": b"and again",
    }
    with _hub(files, monkeypatch) as asked:
        folder = fetch(REPOSITORY, *GROUPS)
        seen = len(asked)
        assert fetch(REPOSITORY, *GROUPS) == folder
        assert len(asked) == seen
    got = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert got == {name: files[name] for name in got}
    assert got.keys() == files.keys() - {"pytorch_model.bin", "flax_model.msgpack"}
    # And without the hub, from the cache.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(REPOSITORY, *GROUPS) == folder


def test_shards_come_with_their_index(monkeypatch):
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = json.dumps({"weight_map": names}).encode()
    files = {"model.safetensors.index.json": index, **{name: b"x" for name in names.values()}}
    with _hub(files, monkeypatch):
        folder = fetch(REPOSITORY, WEIGHTS)
    assert {path.name for path in folder.iterdir()} == files.keys()
    (folder / "model-2.safetensors").unlink()
    assert absent(folder, [WEIGHTS]) == ["model-2.safetensors"]


def test_an_unknown_repository_and_one_without_weights_are_told(monkeypatch):
    with _hub({"config.json": b"{}"}, monkeypatch):
        with pytest.raises(UserError, match="no repository nobody/knows"):
            fetch("nobody/knows", CONFIG)
        with pytest.raises(UserError, match=r"owner/tiny-clip has no model\.safetensors or"):
            fetch(REPOSITORY, CONFIG, WEIGHTS)


def test_paths_and_repositories_are_told_apart(tmp_path):
    file = tmp_path / "ViT-B-16.pt"
    file.touch()
    assert local_path(file) == local_path(str(file)) == file
    assert local_path("openai/clip-vit-base-patch16") is None
    for wrong in (
        "models/missing.pt",
        "./missing/folder",
        "/missing/folder",
        "missing",
        Path("a/b"),
    ):
        with pytest.raises(UserError, match="does not exist: expected a folder"):
            local_path(wrong)
