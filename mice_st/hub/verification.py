"""Whether a published folder still is and scores what its ``verification.json`` says.

Hashes are compared before anything is loaded: changed code is named, never run. They show that a folder is what was
published; whom to trust is another question (``docs/security.md``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import constants

import mice_st.modeling
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.files import read_json, sha256_of, write_json
from mice_st.hub import doors
from mice_st.hub.files import VERIFICATION_FILE, kind_of
from mice_st.hub.record import FORMAT, Record, compare_files, hash_tensors, loaded_files, read_record
from mice_st.model_folder import MODULE_REFERENCE

# Between machines float32 sums in another order; half precision rounds each of them.
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2

INSTALLED_DOOR = "MiceCrossEncoder"
OWN_CLASSES = (
    MODULE_REFERENCE,
    "configuration_mice.MiceConfig",
    "modeling_mice.MiceForSequenceClassification",
    "modeling_mice.MiceModel",
)
# The first query's documents are also the example on the model's card.
_QUERY = "What is the capital of France?"
PAIRS = (
    (_QUERY, "Berlin is the capital of Germany and its largest city."),
    (_QUERY, "Paris is the capital of France, on the Seine."),
    (_QUERY, "A cat sleeps for most of the day."),
    ("how to sort a list", "list.sort sorts the list in place; sorted returns a new one."),
    ("how [SEP] many", "people [SEP] live [CLS] in [PAD] the [MASK] city"),
    ("z\u00fcrich \u4e2d\u6587", "caf\u00e9 \u00df \u0130stanbul 3,520,031"),
    ("a", "word " * 600),
    ("", ""),
)


@dataclass(frozen=True)
class Verification:
    """What came of a verification.

    Attributes:
        problems: What is not as recorded, one sentence each.
        differences: Door -> largest difference of a score from its record; empty where nothing was loaded.
        record: The record.
    """

    problems: list[str]
    differences: dict[str, float]
    record: Record

    @property
    def ok(self) -> bool:
        """Whether everything is as recorded."""
        return not self.problems


def write_record(folder: Path) -> Record:
    """Load the folder in a fresh process, and write ``verification.json`` into it.

    Args:
        folder: A Hub folder.

    Returns:
        What was written.

    Raises:
        ValueError: If the process fails, or its doors give different scores.
    """
    tensors: dict[str, str] = {}
    is_half = False
    for path in loaded_files(folder):
        if path.endswith(".safetensors"):
            hashes, dtypes = hash_tensors(folder / path)
            tensors |= hashes
            is_half = is_half or bool(dtypes - {torch.float32})
    pairs = [list(pair) for pair in PAIRS]
    scores = run_doors(str(folder), None, pairs)
    files = {path: sha256_of(folder / path) for path in loaded_files(folder)}
    tolerance = HALF_TOLERANCE if is_half else TOLERANCE
    record = Record(FORMAT, files, tensors, pairs, scores["CrossEncoder"], tolerance)
    problems, _ = compare_scores(scores, record)
    if problems:
        raise ValueError(f"{folder}: the ways to load it do not agree. {'; '.join(problems)}")
    write_json(folder / VERIFICATION_FILE, asdict(record))
    return record


def verify_folder(
    folder: Path,
    *,
    trust_remote_code: bool,
    source: str | None = None,
    revision: str | None = None,
    cache: Path | None = None,
) -> Verification:
    """Compare a folder with its record: every file and tensor, then the scores through all doors.

    Args:
        folder: The folder, or the snapshot of a Hub repository.
        trust_remote_code: Run code that is not that of the installed mice-st.
        source: Hub id to load from in the fresh process; the folder where it is left out.
        revision: Commit to load.
        cache: Cache of the Hub that holds it.

    Raises:
        FileNotFoundError: If there is no record.
        ValueError: If the record cannot be read.
    """
    record = read_record(folder)
    problems = compare_files(folder, record)
    if not problems and not trust_remote_code:
        problems = [
            f"code {name} is not that of the installed mice-st, so nothing was loaded; --trust-remote-code runs it"
            for name in _foreign_code(folder) + _foreign_references(folder)
        ]
    differences: dict[str, float] = {}
    if not problems:
        try:
            scores = run_doors(source or str(folder), revision, record.pairs, cache)
            pairs = [tuple(pair) for pair in record.pairs]
            ours = MiceCrossEncoder(str(folder), device="cpu").predict(pairs, show_progress_bar=False)
            scores[INSTALLED_DOOR] = ours.tolist()
        except (ValueError, OSError) as error:
            problems.append(f"loading fails: {error}")
        else:
            problems, differences = compare_scores(scores, record)
    return Verification(problems, differences, record)


def compare_scores(scores: dict[str, list[float]], record: Record) -> tuple[list[str], dict[str, float]]:
    """Problems, and the largest difference of each door."""
    problems, differences = [], {}
    for door, logits in scores.items():
        found = [abs(logit - expected) for logit, expected in zip(logits, record.logits, strict=True)]
        differences[door] = max(found)
        for row, (difference, expected) in enumerate(zip(found, record.logits, strict=True)):
            if not difference <= record.tolerance * max(1.0, abs(expected)):
                problems.append(f"{door}: pair {row} scores {logits[row]:.6f}, recorded {expected:.6f}")
                break
    return problems, differences


def run_doors(
    source: str, revision: str | None, pairs: list[list[str]], cache: Path | None = None
) -> dict[str, list[float]]:
    """Scores of ``doors.py`` in a fresh process without mice-st and without network.

    Args:
        source: Folder, or Hub id whose files are in the cache.
        revision: Commit, for a Hub id.
        pairs: Queries and documents.
        cache: Cache of the Hub to load from; the user's own where it is left out.

    Returns:
        Door -> logits.

    Raises:
        ValueError: If the process fails; holds the end of what it said.
    """
    with tempfile.TemporaryDirectory() as modules:
        process = subprocess.run(
            [sys.executable, "-P", doors.__file__],  # -P: the script's own folder is not a place to import from
            input=json.dumps({"source": source, "revision": revision, "pairs": pairs}),
            env=os.environ
            | {
                "HF_HUB_OFFLINE": "1",
                "HF_MODULES_CACHE": modules,
                "HF_HUB_CACHE": str(cache or constants.HF_HUB_CACHE),
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode:
        raise ValueError(f"{source} does not load without mice-st: {process.stderr.strip()[-600:]}")
    return json.loads(process.stdout.splitlines()[-1])


def _foreign_code(folder: Path) -> list[str]:
    """Python files that the installed package does not have, or has otherwise."""
    installed = Path(mice_st.modeling.__file__).parent
    names = [path for path in loaded_files(folder) if kind_of(path) == "code"]
    return [
        name
        for name in names
        if not (installed / name).is_file() or sha256_of(installed / name) != sha256_of(folder / name)
    ]


def _foreign_references(folder: Path) -> list[str]:
    """Classes that a config has loaders import, and that are neither the folder's own nor torch's."""
    named = [module["type"] for module in read_json(folder / "modules.json")]
    named.append(read_json(folder / "config_sentence_transformers.json").get("activation_fn") or "torch.nn.Identity")
    for name in ("config.json", "tokenizer_config.json"):
        for reference in read_json(folder / name).get("auto_map", {}).values():
            named += reference if isinstance(reference, list) else [reference]
    return [
        f"{reference} (named in a config)"
        for reference in named
        if reference is not None and reference not in OWN_CLASSES and not str(reference).startswith("torch.nn.")
    ]
