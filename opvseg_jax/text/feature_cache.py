"""Text features on disk, one file per question, for any number of processes at once.

A file is written under a temporary name and renamed, so a reader sees it whole or not at all. It
names its question and the checksum of its numbers: anything else that lies there is ignored.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

FORMAT = 1

log = logging.getLogger(__name__)


def key(weights_digest: str, tokenizer_digest: str, texts: Sequence[str]) -> str:
    """Of everything that decides the numbers: weights, tokenizer and the sentences in order."""
    question = json.dumps([FORMAT, weights_digest, tokenizer_digest, list(texts)])
    return hashlib.sha256(question.encode()).hexdigest()


def file_of(folder: Path, question: str) -> Path:
    """Where the answer lies."""
    return Path(folder) / "text" / f"{question[:32]}.safetensors"


def read(folder: Path, question: str, count: int) -> np.ndarray | None:
    """The embeddings [count, E], or None where there is no whole answer to this question."""
    path = file_of(folder, question)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            rows, facts = file.get_tensor("embeddings"), file.metadata() or {}
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        log.info("%s is not a whole cache file (%s): computing again", path, error)
        return None
    is_ours = facts.get("question") == question and facts.get("checksum") == _checksum(rows)
    if not is_ours or rows.ndim != 2 or len(rows) != count or rows.dtype != np.float32:
        log.info("%s holds something else: computing again", path)
        return None
    return rows


def write(folder: Path, question: str, rows: np.ndarray) -> None:
    """Keeps the embeddings. A folder that cannot be written costs one warning, not the run."""
    path = file_of(folder, question)
    rows = np.ascontiguousarray(rows)
    content = safetensors.numpy.save(
        {"embeddings": rows}, {"question": question, "checksum": _checksum(rows)}
    )
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = file.name
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        log.warning("text features are not cached: %s cannot be written (%s)", path, error)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _checksum(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
