"""``verification.json``: every file and tensor of a published folder by its hash, and some scores.

Nothing here loads a model; ``verification.py`` does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mice_st.files import read_json, sha256_of
from mice_st.hub.files import VERIFICATION_FILE, kind_of, list_files

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """The content of ``verification.json``.

    Attributes:
        format: Version of this layout.
        files: Path -> SHA-256 of each file that loading reads.
        tensors: Name -> SHA-256 over dtype, shape and bytes of each tensor.
        pairs: Queries and documents.
        logits: Their scores, float32.
        tolerance: How far a score may be off, times the larger of 1 and the score.
    """

    format: int
    files: dict[str, str]
    tensors: dict[str, str]
    pairs: list[list[str]]
    logits: list[float]
    tolerance: float


def read_record(folder: Path) -> Record:
    """Read ``verification.json``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not of this layout.
    """
    path = folder / VERIFICATION_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is none, so nothing says what the model should be")
    try:
        record = Record(**read_json(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: is no verification record: {error}") from error
    shaped = isinstance(record.files, dict) and isinstance(record.tensors, dict) and record.format == FORMAT
    scored = (
        isinstance(record.pairs, list) and isinstance(record.logits, list) and len(record.pairs) == len(record.logits)
    )
    if not (shaped and scored and record.pairs and 0 <= record.tolerance < 0.1):
        raise ValueError(f"{path}: is no verification record of format {FORMAT}")
    return record


def compare_files(folder: Path, record: Record) -> list[str]:
    """What the folder's files and tensors differ in from the record, one sentence each."""
    present = loaded_files(folder)
    problems = [f"{kind_of(path)} {path} is missing" for path in record.files if path not in present]
    problems += [f"{kind_of(path)} {path} is not in the record" for path in present if path not in record.files]
    changed = [path for path in present if record.files.get(path, "") not in ("", sha256_of(folder / path))]
    problems += [f"{kind_of(path)} {path} has changed" for path in changed if not path.endswith(".safetensors")]
    tensors: dict[str, str] = {}
    damaged = False
    for path in (path for path in present if path.endswith(".safetensors") and path in record.files):
        try:
            hashes, _ = hash_tensors(folder / path)
        except (SafetensorError, ValueError, RuntimeError) as error:
            damaged = True
            problems.append(f"weights {path}: the header is damaged: {error}")
            continue
        tensors |= hashes
        same = all(record.tensors.get(name) == digest for name, digest in hashes.items())
        if path in changed and same and hashes.keys() >= record.tensors.keys():
            problems.append(f"weights {path} has changed outside its tensors, in the header")
    problems += [
        f"tensor {name} has changed" for name in tensors if record.tensors.get(name, "") not in ("", tensors[name])
    ]
    problems += [f"tensor {name} is not in the record" for name in tensors if name not in record.tensors]
    if not damaged:
        problems += [f"tensor {name} is missing" for name in record.tensors if name not in tensors]
    return problems


def loaded_files(folder: Path) -> list[str]:
    """The files of a folder that loading reads."""
    return [path for path in list_files(folder) if kind_of(path) is not None]


def hash_tensors(path: Path) -> tuple[dict[str, str], set[Any]]:
    """Name -> SHA-256 over dtype, shape and bytes; and the dtypes."""
    hashes, dtypes = {}, set()
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dictionary)
            tensor = file.get_tensor(name)
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
            hashes[name] = digest.hexdigest()
            dtypes.add(tensor.dtype)
    return hashes, dtypes
