"""What a saved model folder holds: weights, tokenizer, configs, the modelling code itself, and ``training.json``.

``training.json`` says what a model was made of, and its card shows it. Each command that makes a model writes one, and
copies into it that of the model it started from: the file of the last step tells the whole way from the backbone. It holds
no time, no user and no absolute path.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from huggingface_hub import ModelCard, hf_hub_download
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import mice_st.modeling
from mice_st.data.wheels import BACKBONE_NAME, is_backbone
from mice_st.files import read_json, sha256_of, write_json
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.st_mice import complete_settings

MODULE_REFERENCE = "st_mice.MiceTransformer"  # flat: the file lies beside the weights
PROVENANCE_FILE = "training.json"
PACKAGES = ("mice-st", "sentence-transformers", "transformers", "torch")

MODELING = Path(mice_st.modeling.__file__).parent
# Modelling files of 0.1: a folder that is saved again does not keep them beside those that took their place.
FORMER_CODE = {
    f"{name}.py"
    for name in [
        "attention",
        "backbones",
        "bert_backbones",
        "chunks",
        "config_checks",
        "contextualization",
        "fast_attention",
        "inputs",
        "interaction",
        "layers",
        "modernbert_backbone",
        "modernbert_layers",
        "pairs",
        "prepared_query",
        "residuals",
        "states",
    ]
}

CONFIG_FILE = "config.json"

CARD_FILE = "README.md"
CARD_MARK = "<!-- Written with the model by mice-st; every save writes it anew. -->"
CARD = """---
library_name: sentence-transformers
pipeline_tag: text-ranking
tags:
- mice
- reranker
- cross-encoder
- sentence-transformers
- text-ranking
---
{mark}

# {name}

A MICE re-ranker ([Minimal Interaction Cross-Encoders](https://arxiv.org/abs/2602.16299)): it scores a query against a document
like a cross-encoder, but encodes the document once, without any query. {layers} contextualisation layers ({backbone}, {width} wide)
read query and document apart; {interaction} interaction layers let the query read the document's states. Queries up to {query}
tokens, documents up to {document}. Scores are logits: higher is more relevant.

## Usage

The code that runs the model lies beside its weights, so `trust_remote_code=True` is needed.{where}

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder({source}, trust_remote_code=True)
query = "how many people live in berlin"
documents = ["Berlin has 3.7 million inhabitants.", "Berlin is known for its museums.", "A cat sleeps."]
for entry in model.rank(query, documents):
    print(f"{{entry['score']:.2f}}  {{documents[entry['corpus_id']]}}")
```
"""


def code_files() -> list[str]:
    """Names of the modelling files, which go into every folder."""
    return sorted(path.name for path in MODELING.glob("*.py") if path.name != "__init__.py")


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


def complete_hub_folder(folder: Path, model_name: str | None = None, create_model_card: bool = True) -> None:
    """Make a folder saved by sentence-transformers loadable without mice-st.

    sentence-transformers copies module code only for classes that it loaded from a repository; here the classes come
    from the installed package, so their files are copied and named flat.

    Args:
        folder: A folder with model, tokenizer and module configs.
        model_name: Hub id that the card's example loads; None loads the folder itself.
        create_model_card: Write a card where there is none of MICE yet.
    """
    if create_model_card and (folder / CONFIG_FILE).is_file():
        write_folder_card(folder, model_name)
    for name in FORMER_CODE - set(code_files()):
        (folder / name).unlink(missing_ok=True)
    for name in code_files():
        shutil.copyfile(MODELING / name, folder / name)
    # transformers writes one entry for each class; AutoModel without one calls a config of MICE unrecognised.
    model = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}  # an adapter alone has none
    if "AutoModelForSequenceClassification" in model.get("auto_map", {}):
        model["auto_map"]["AutoModel"] = "modeling_mice.MiceModel"  # which says what the folder holds
        write_json(folder / CONFIG_FILE, model)
    modules = read_json(folder / "modules.json")
    modules[0]["type"] = MODULE_REFERENCE
    write_json(folder / "modules.json", modules)
    complete_settings(folder)


def write_folder_card(folder: Path, model_name: str | None = None) -> None:
    """Write a card whose example runs, in place of the generic one of sentence-transformers; another card of MICE stays.

    Args:
        folder: The model folder, with its ``config.json``.
        model_name: Hub id that the example loads; None loads the folder itself, from within it.
    """
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    is_generic = (
        CARD_MARK in text
        or not text.startswith("---")
        or "mice" not in (getattr(ModelCard(text).data, "tags", None) or [])
    )
    if not is_generic:
        return
    config = MiceConfig.from_pretrained(folder)
    card = CARD.format(
        mark=CARD_MARK,
        name=config.name if model_name is None else model_name.split("/")[-1],
        layers=config.contextualization_layers,
        backbone=config.backbone_config.model_type,
        width=config.hidden_size,
        interaction=config.interaction_layers,
        query=config.query_max_length,
        document=config.document_max_length,
        where=" Run this in the folder itself; elsewhere, `.` is its path." if model_name is None else "",
        source=json.dumps(model_name or "."),
    )
    path.write_text(card, encoding="utf-8")


def write_provenance(folder: Path, command: str, options: Mapping[str, Any], **made: Any) -> None:
    """Write ``training.json`` into a model folder.

    Args:
        folder: The model folder.
        command: Command of ``mice-st`` that made the model.
        options: Its flags; absolute paths are shortened, see ``shorten_paths``. What was left out is left out here.
        **made: What else there is to say: ``model`` (of ``describe_source``), ``data``, ``steps``.
    """
    given = {name: shorten_paths(value) for name, value in options.items() if value is not None}
    versions = {package: version(package) for package in PACKAGES}
    write_json(folder / PROVENANCE_FILE, {"command": command, "options": given, **made, "versions": versions})


def read_stages(folder: Path) -> list[dict[str, Any]]:
    """What ``training.json`` tells, one dictionary for each command, the first one first; empty where there is no such file.

    Raises:
        ValueError: If the file is not what ``write_provenance`` writes.
    """
    path = folder / PROVENANCE_FILE
    stages: list[dict[str, Any]] = []
    stage = read_json(path) if path.is_file() else None
    while stage is not None:
        if not isinstance(stage, dict) or not isinstance(stage.get("options"), dict) or "command" not in stage:
            raise ValueError(f"{path}: stage {len(stages) + 1} from the last is not a command with its options")
        stages.insert(0, stage)
        stage = (stage.get("model") or {}).get("made_by")
    return stages


def describe_source(name: str) -> dict[str, Any]:
    """Which model something started from.

    Args:
        name: Folder or Hub id.

    Returns:
        ``source``; for a folder ``weights`` (file -> SHA-256) and, where it has a ``training.json``, its content as ``made_by``; for a Hub
        id its ``commit``.
    """
    folder = Path(name)
    if not folder.is_dir():
        return {"source": name, "commit": Path(hf_hub_download(name, "config.json")).parent.name}
    weights = {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
    described = {"source": shorten_paths(name), "weights": weights}
    made_by = folder / PROVENANCE_FILE
    return described | ({"made_by": read_json(made_by)} if made_by.is_file() else {})


def shorten_paths(value: Any) -> Any:
    """Absolute paths without what they tell of the machine: below the working folder as they are from there, otherwise the last name; the backbone's is its own."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [shorten_paths(item) for item in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    if is_backbone(value):
        return BACKBONE_NAME
    path = Path(value)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
