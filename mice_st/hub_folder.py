"""The folder that goes to the Hub: weights, tokenizer, configs, and the modelling code itself."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import mice_st.modeling

MODULE_REFERENCE = "st_mice.MiceTransformer"  # flat: the file lies beside the weights
REQUIREMENTS = {"sentence-transformers": ">=5.4", "transformers": ">=5"}


def write_hub_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that all three doors load, from a model and its tokenizer.

    Args:
        model: A ``MiceForSequenceClassification``.
        tokenizer: The backbone's tokenizer.
        folder: Folder, made where it is missing.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": MODULE_REFERENCE}])
    write_json(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    versions = {
        "sentence_transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "pytorch": torch.__version__,
    }
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": versions,
            "model_type": "CrossEncoder",
            "activation_fn": "torch.nn.modules.linear.Identity",
            "prompts": {},
            "default_prompt_name": None,
        },
    )
    complete_hub_folder(folder)


def complete_hub_folder(folder: Path) -> None:
    """Make a folder saved by sentence-transformers loadable without mice-st.

    sentence-transformers copies module code only for classes that it loaded from a repository; here the classes come
    from the installed package, so their files are copied and named flat.

    Args:
        folder: A folder with model, tokenizer and module configs.
    """
    for source in Path(mice_st.modeling.__file__).parent.glob("*.py"):
        if source.name != "__init__.py":
            shutil.copyfile(source, folder / source.name)
    modules = read_json(folder / "modules.json")
    modules[0]["type"] = MODULE_REFERENCE
    write_json(folder / "modules.json", modules)
    config = read_json(folder / "config_sentence_transformers.json")
    write_json(folder / "config_sentence_transformers.json", config | {"requirements": REQUIREMENTS})
    tokenizer = read_json(folder / "tokenizer_config.json")
    for leaked in ("is_local", "local_files_only"):  # how transformers loaded it, not what it is
        tokenizer.pop(leaked, None)
    tokenizer["split_special_tokens"] = True  # a text like "[SEP]" is text, for whoever tokenises
    write_json(folder / "tokenizer_config.json", tokenizer)


def read_json(path: Path) -> Any:
    """Read one JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON under another name first, so that a reader never meets half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
