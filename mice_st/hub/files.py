"""Which files of a model folder go to the Hub, and which of them loading reads.

What goes is listed by name, so that a forgotten file of training data or secrets never does.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mice_st.files import sha256_of
from mice_st.model_folder import PROVENANCE_FILE, code_files

VERIFICATION_FILE = "verification.json"
CARD_FILE = "README.md"
CARD_FACTS_FILE = "card.yaml"

# Kind -> patterns of the files that loading a model reads: a changed one is another model.
LOADED: dict[str, tuple[str, ...]] = {
    "weights": ("*.safetensors", "*.safetensors.index.json"),
    "code": ("*.py",),
    "tokenizer": (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "*.model",  # SentencePiece
    ),
    "config": ("config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
}
RECIPE_FILE = "recipe.toml"
BESIDE = (
    CARD_FILE,
    VERIFICATION_FILE,
    PROVENANCE_FILE,
    RECIPE_FILE,
    "LICENSE",
    "*.png",
    "*.svg",
    ".eval_results/*.yaml",
)
# Loaders would run what they hold. They are never pushed, and never belong to a verified folder.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib")

NEEDED = (
    *LOADED["config"],
    "tokenizer.json",
    "tokenizer_config.json",
    *code_files(),
)


@dataclass(frozen=True)
class HubFile:
    """One file to publish.

    Attributes:
        path: Where it lies in the repository.
        size: Bytes.
        sha256: Hash of its content.
    """

    path: str
    size: int
    sha256: str


def kind_of(path: str) -> str | None:
    """What loading reads this file as: a key of ``LOADED``, ``"pickle"``, or None for what it does not read."""
    if _matches(path, PICKLES):
        return "pickle"
    return next((kind for kind, patterns in LOADED.items() if _matches(path, patterns)), None)


def list_files(folder: Path) -> list[str]:
    """All files of a folder, relative, sorted; caches and version control left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    skipped = {"__pycache__", ".git", ".cache"}
    return sorted(path.as_posix() for path in found if not skipped & set(path.parts))


def copy_hub_files(folder: Path, output: Path) -> list[str]:
    """Copy what goes to the Hub into an empty folder.

    Args:
        folder: A model folder, as ``MiceCrossEncoder.save`` writes it.
        output: Folder to copy into, made where it is missing.

    Returns:
        The files that were left out.

    Raises:
        FileNotFoundError: If the folder or a file that loading needs is missing; names all of them.
        FileExistsError: If ``output`` holds anything.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    files = list_files(folder)
    absent = [name for name in NEEDED if name not in files]
    if not any(_matches(path, LOADED["weights"]) for path in files):
        absent.append("model.safetensors")
    if absent:
        raise FileNotFoundError(f"{folder}: a MICE model for the Hub also needs {', '.join(absent)}")
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise FileExistsError(f"{output}: is not empty")
    wanted = [path for path in files if kind_of(path) in LOADED or _matches(path, BESIDE)]
    for path in wanted:
        (output / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / path, output / path)
    return [path for path in files if path not in wanted and path != CARD_FACTS_FILE]


def describe_files(folder: Path) -> list[HubFile]:
    """Size and hash of every file of a folder."""
    return [HubFile(path, (folder / path).stat().st_size, sha256_of(folder / path)) for path in list_files(folder)]


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Patterns without a slash are of files in the top folder."""
    return any(fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)
