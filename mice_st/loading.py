"""Any model that ranks, by the name of a released one, its folder or its Hub id: MICE, cross-encoder, bi-encoder or ColBERT.

The released models' weights lie in the repository (``hub_cards/NAME``), not in mice-st's wheel: a name leads to the checkout that the
package is installed from, never to the network. The backbone has a wheel of its own.

Commands read names from here before anything is loaded, so this module imports torch and sentence-transformers only where it loads.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mice_st.data.wheels import BACKBONE_HUB_ID, BACKBONE_NAME, backbone_folder, find_backbone, is_backbone

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

RELEASED_MODELS = ("mice-mini", "mice-mini-narrow")
DEFAULT_MODEL = "mice-mini"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
MODEL_TYPE = "mice"  # of ``MiceConfig``

# Beside the package in a checkout (`pip install -e .`); where the package was installed from a wheel, there is no such folder.
HUB_CARDS = Path(__file__).resolve().parents[1] / "hub_cards"

Kind = Literal["mice", "cross_encoder", "bi_encoder", "colbert"]
KIND_OF_MODEL_TYPE: dict[str, Kind] = {
    "CrossEncoder": "cross_encoder",
    "SentenceTransformer": "bi_encoder",
    "MultiVectorEncoder": "colbert",
}


# Files and folders of a model folder that no loader reads: with other ones, the model is still the same.
BESIDE = frozenset(
    {"checkpoints", "__pycache__", "evaluation", "card.yaml", "recipe.toml", "verification.json", "training.json"}
)


def resolve_model(name: str) -> str:
    """The folder of a released model or of the backbone; any other folder or Hub id stays as it is.

    Args:
        name: Folder, Hub id, name of a released model, or ``all-MiniLM-L6-v2``. A local folder of that name is meant before any of them.

    Returns:
        What loaders take: a folder (a released model's is relative where it lies in the working folder), or the Hub id, which is also
        that of the backbone where its wheel is not installed.

    Raises:
        FileNotFoundError: If a released model is named and its weights are not on this machine.
        ValueError: If the backbone is named and the weights in its wheel are not the Hub's own.
    """
    if Path(name).is_dir():
        return name
    if name == BACKBONE_NAME:
        return BACKBONE_HUB_ID if backbone_folder() is None else str(find_backbone())
    if name not in RELEASED_MODELS:
        return name
    folder = HUB_CARDS / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{name}: the released weights lie in the repository's hub_cards/{name}, and this mice-st is not installed from a "
            "checkout that has them: name that folder by its path, or another model (--model FOLDER, or a Hub id)"
        )
    working_folder = Path.cwd()
    return os.path.relpath(folder) if folder.is_relative_to(working_folder) else str(folder)


def lasting_name(name: str) -> str:
    """A name that means the same model from any working folder: a released name, an absolute folder, or a Hub id.

    Args:
        name: Folder or Hub id that a model was loaded from; empty where it was not loaded.
    """
    if not name or not Path(name).is_dir():
        return name
    folder = Path(name).resolve()
    is_released = folder.parent == HUB_CARDS.resolve() and folder.name in RELEASED_MODELS
    return folder.name if is_released else str(folder)


def check_model_name(name: str) -> None:
    """Refuse a name that no model can have, without asking the Hub.

    Args:
        name: As it was given, or as ``resolve_model`` returns it.

    Raises:
        FileNotFoundError: If it is neither a folder nor of the form ``owner/name``; lists the released models and those with similar names.
    """
    if Path(name).exists() or HUB_ID.fullmatch(name):
        return
    known = (*RELEASED_MODELS, BACKBONE_NAME)
    near = difflib.get_close_matches(Path(name).name, known, n=2)
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    raise FileNotFoundError(
        f"{name}: there is no such folder, it is no Hub id (owner/name), and the models known by name are {', '.join(known)}{meant}"
    )


def is_mice(name: str) -> bool:
    """Whether a folder or Hub repository holds MICE; any other model, or none, is not."""
    return (_read(name, "config.json") or {}).get("model_type") == MODEL_TYPE


def model_kind(name: str) -> Kind:
    """What a folder or Hub id holds, from its configurations alone.

    A folder of sentence-transformers says so itself; one without its files is a bi-encoder if it has a list of modules, and a cross-encoder
    if its architecture classifies sequences.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If it is none of the four kinds.
    """
    if Path(name).exists() and not (Path(name) / "config.json").is_file() and not _read(name, "modules.json"):
        raise FileNotFoundError(f"{name}: there is no config.json, so this is no model")
    config = _read(name, "config.json") or {}
    if config.get("model_type") == MODEL_TYPE:
        return "mice"
    has_modules = _read(name, "modules.json") is not None
    model_type = (_read(name, "config_sentence_transformers.json") or {}).get("model_type")
    if model_type is None and has_modules:  # folders from before sentence-transformers wrote the type
        model_type = "SentenceTransformer"
    if model_type is None and any("SequenceClassification" in item for item in config.get("architectures") or ()):
        model_type = "CrossEncoder"
    if model_type not in KIND_OF_MODEL_TYPE:
        raise ValueError(
            f"{name}: holds neither MICE, nor a cross-encoder, nor a SentenceTransformer, nor a MultiVectorEncoder "
            f"(model type {model_type}, architectures {config.get('architectures')})"
        )
    return KIND_OF_MODEL_TYPE[model_type]


def load_model(
    name: str, device: str | None = None, max_length: int | None = None, trust_remote_code: bool = False
) -> Any:
    """Load a model as what it is.

    Args:
        name: Folder or Hub id.
        device: Where it computes; None takes the best there is.
        max_length: Longest document (MICE, bi-encoder, ColBERT) or pair, in tokens; None takes the model's own.
        trust_remote_code: Run code that lies beside the weights. MICE never needs it: the installed code runs.

    Returns:
        A ``MiceCrossEncoder``, ``CrossEncoder``, ``SentenceTransformer`` or ``MultiVectorEncoder``.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If it is none of the four kinds.
    """
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

    kind = model_kind(name)
    if kind in ("mice", "cross_encoder"):
        return load_cross_encoder(name, device, max_length, trust_remote_code)
    loader = SentenceTransformer if kind == "bi_encoder" else MultiVectorEncoder
    model = loader(name, device=device, trust_remote_code=trust_remote_code)
    _check_words(name, model)
    if max_length is not None:
        model.max_seq_length = max_length
    return model


def load_cross_encoder(
    name: str, device: str | None = None, max_length: int | None = None, trust_remote_code: bool = False
) -> CrossEncoder:
    """Load MICE where the folder holds MICE, a masked cross-encoder with its masks, and any other one as ``CrossEncoder``.

    Args:
        name: Folder or Hub id.
        device: Where it computes; None takes the best there is.
        max_length: Longest document (MICE) or pair, in tokens; None takes the model's own.
        trust_remote_code: Run code that lies beside the weights of a plain cross-encoder.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig

    from mice_st.cross_encoder import MiceCrossEncoder
    from mice_st.research.masking import MaskedCrossEncoder

    options: dict[str, Any] = {"device": device}
    if max_length is not None:
        options["max_length"] = max_length
    if AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code).model_type == MODEL_TYPE:
        return MiceCrossEncoder(name, **options)
    # The identity, as for MICE: a sigmoid reaches exactly 1.0 and makes ties.
    if "patches" in (_read(name, "sentence_bert_config.json") or {}):
        masked = MaskedCrossEncoder(name, num_labels=1, activation_fn=torch.nn.Identity(), **options)
        _check_words(name, masked)
        return masked
    options["trust_remote_code"] = trust_remote_code
    model = CrossEncoder(name, num_labels=1, activation_fn=torch.nn.Identity(), **options)
    _check_words(name, model)
    return model


def _check_words(name: str, model: Any) -> None:
    """Refuse a model whose tokenizer is not its own: it would score every word as an unknown one, without an error.

    Raises:
        ValueError: If the tokenizer has more words than the model, or fewer than half as many; names the model.
    """
    from mice_st.modeling.st_mice import check_vocabulary

    tokenizer, config = model.tokenizer, getattr(model[0], "config", None)
    vocab_size = getattr(config, "vocab_size", None)
    if hasattr(tokenizer, "get_vocab") and vocab_size is not None:
        try:
            check_vocabulary(tokenizer, vocab_size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def short_name(model: str) -> str:
    """What to call a folder where its path would say too much or, as the backbone's does, too little."""
    return BACKBONE_NAME if is_backbone(model) else Path(model).name or model


def model_hash(name: str) -> str:
    """SHA-256 over names and contents of all files of a local folder, sub-folders included; a Hub id stands for itself.

    What only tells of the model (``BESIDE``) does not count, nor do checkpoints of a training run inside the folder.
    """
    folder = Path(name)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(name.encode())
        return digest.hexdigest()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = file.relative_to(folder)
        if relative.parts[0] in BESIDE or file.suffix in (".md", ".png", ".svg"):
            continue
        digest.update(str(relative).encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _read(name: str, file_name: str) -> Any:
    """One JSON file of a folder or Hub repository, or None where it has no such file."""
    if Path(name).is_dir():
        path = Path(name) / file_name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return json.loads(Path(hf_hub_download(name, file_name)).read_text(encoding="utf-8"))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{name}: there is no such folder, and the Hub cannot be reached") from error
    except EntryNotFoundError:
        return None
    except ValueError as error:  # not of the form of a Hub id
        raise FileNotFoundError(f"{name}: there is no such folder, and it is no Hub id") from error
