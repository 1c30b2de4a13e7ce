"""MICE as a model of mteb: every candidate encoded once, queries streamed past its states.

mteb drives a model with ``predict`` pair by pair, and would encode a document once for each query that it is a
candidate of. This class offers mteb's ``SearchProtocol`` alone (``index`` and ``search``); scores are those of mteb's
stock wrapper around ``CrossEncoder``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.evaluation.blocks import TOKENS_AT_ONCE, rank_in_blocks
from mice_st.loading import load_model, model_hash, short_name
from mice_st.states.fingerprint import scoring_hash


class MiceSearch:
    """Re-ranks mteb's candidates with MICE.

    The states of at most ``tokens_at_once`` tokens are in memory, see ``rank_in_blocks``.

    Args:
        model: The model.
        meta: mteb's ``ModelMeta``; None describes the model under its own name, with a revision that is the hash of all
            that a score comes from: mteb takes earlier results of one name and revision for this model's.
        codec: How document states are kept; ``"fp32"`` changes no score.
        tokens_at_once: Upper bound on the tokens whose states are in memory, one slice of documents more at most.
    """

    def __init__(
        self, model: MiceCrossEncoder, meta: Any = None, codec: str = "fp32", tokens_at_once: int = TOKENS_AT_ONCE
    ) -> None:
        self.model = model
        self._meta = meta
        self.codec = codec
        self.tokens_at_once = tokens_at_once
        self._corpus: Any = None

    @property
    def mteb_model_meta(self) -> Any:
        """Mteb's ``ModelMeta``; made anew each time where none was given, since a model may be trained in between."""
        return self._meta or make_model_meta(self.model, self.model.mice.name_or_path, None, self.codec)

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:  # ``ModelMeta.load_model`` sets its own
        self._meta = meta

    def index(self, corpus: Any, **_: Any) -> None:
        """Keep the corpus; documents are encoded when their candidates are known.

        Args:
            corpus: Rows with ``id``, ``text`` and perhaps ``title``.
            **_: Further arguments of mteb.

        Raises:
            ValueError: If an id is there twice; names the row.
        """
        _refuse_twice("corpus", corpus["id"])
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        top_k: int,
        encode_kwargs: dict[str, Any],
        top_ranked: dict[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Score the candidates of every query.

        Args:
            queries: Rows with ``id`` and ``text``.
            task_metadata: Of the task; says how texts are put together.
            top_k: As mteb passes it. All candidates are scored and returned.
            encode_kwargs: ``batch_size`` and ``show_progress_bar``.
            top_ranked: Query id -> ids of its candidates.
            num_proc: Processes that read the texts.
            **_: Further arguments of mteb.

        Returns:
            Query id -> document id -> score, a query without candidates with none.

        Raises:
            ValueError: If the corpus was not indexed, a query is there twice, there are no candidates at all, one of
                them is not in the corpus, or a score is not finite.
        """
        if self._corpus is None:
            raise ValueError("search: there is no corpus; call index first")
        if top_ranked is None:
            raise ValueError(
                f"task {task_metadata.name}: MICE re-ranks and needs candidates; give the task those of a first stage"
            )
        query_ids = list(queries["id"])
        _refuse_twice("queries", query_ids)
        batch_size = encode_kwargs.get("batch_size", 32)
        candidates = {query_id: list(top_ranked.get(query_id, ())) for query_id in query_ids}
        rows = _candidate_rows(candidates, list(self._corpus["id"]))
        read = {"task_metadata": task_metadata, "num_proc": num_proc, "batch_size": batch_size}
        query_texts = _read_texts(queries, is_query=True, **read)
        texts = _read_texts(self._corpus.select(rows.values()), is_query=False, **read)
        return rank_in_blocks(
            self.model,
            dict(zip(query_ids, query_texts, strict=True)),
            dict(zip(rows, texts, strict=True)),
            candidates,
            [self.codec],
            batch_size,
            self.tokens_at_once,
            encode_kwargs.get("show_progress_bar"),
        )[self.codec]


def load(name: str, revision: str | None = None, **kwargs: Any) -> MiceSearch:
    """Load a MICE model for mteb; the ``loader`` of its ``ModelMeta``.

    Args:
        name: Folder or Hub id.
        revision: Commit of the Hub repository; without effect on a folder, whose revision is the hash of all that a
            score comes from.
        **kwargs: ``codec`` and ``tokens_at_once`` of ``MiceSearch``; all others go to ``MiceCrossEncoder``.

    Returns:
        The model.

    Raises:
        ValueError: If it is not MICE.
    """
    search = {key: kwargs.pop(key) for key in ("codec", "tokens_at_once") if key in kwargs}
    model = MiceCrossEncoder(name, revision=revision, **kwargs)
    if Path(name).exists() or revision is None:
        return MiceSearch(model, **search)
    return MiceSearch(model, make_model_meta(model, name, revision, search.get("codec", "fp32")), **search)


def make_model_meta(model: Any, name: str, revision: str | None, codec: str = "fp32", **fields: Any) -> Any:
    """Describe a model to mteb.

    Args:
        model: A model of sentence-transformers.
        name: ``org/name``; the name of a folder becomes ``local/<folder>``.
        revision: Commit or, for a folder, hash of its content; None is, for MICE, the hash of all that a score comes from.
        codec: How document states are kept. Anything but ``"fp32"`` is another experiment to mteb.
        **fields: Fields of ``ModelMeta`` that replace those made here, such as ``license`` or ``training_datasets``.

    Returns:
        An ``mteb.ModelMeta``; what cannot be read off the model is None.

    Raises:
        ImportError: If mteb is not installed; the message names the extra.
        ValueError: If there is no such field.
    """
    model_meta = import_mteb().models.ModelMeta
    is_mice = isinstance(model, MiceCrossEncoder)
    embedding = model[0].auto_model.get_input_embeddings() if hasattr(model[0], "auto_model") else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if revision is None and is_mice:
        revision = scoring_hash(model)[:40]
    made = {
        "loader": load if is_mice else None,
        "name": name if name.count("/") == 1 and not Path(name).exists() else f"local/{short_name(name)}",
        "revision": revision,
        "n_parameters": parameters,
        "n_embedding_parameters": None if embedding is None else embedding.weight.numel(),
        "memory_usage_mb": round(sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20, 1),
        "max_tokens": model.max_seq_length,
        "framework": ["Sentence Transformers", "PyTorch"],
        "experiment_kwargs": None if codec == "fp32" else {"codec": codec},
    }
    if isinstance(model, torch.nn.Module) and type(model).__name__.endswith("CrossEncoder"):
        made["model_type"] = ["cross-encoder"]
    if unknown := fields.keys() - model_meta.model_fields.keys():
        raise ValueError(f"ModelMeta has no field {min(unknown)!r}")
    filled = model_meta.create_empty(made | fields)
    return model_meta.model_validate(dict(filled))  # create_empty validates nothing


def load_for_mteb(
    name: str, device: str | None = None, max_length: int | None = None, codec: str = "fp32"
) -> tuple[Any, Any]:
    """Any model that ranks, as mteb takes it.

    Args:
        name: Folder or Hub id of MICE, a cross-encoder, a bi-encoder or ColBERT.
        device: Where it computes.
        max_length: Longest document or pair, in tokens.
        codec: How MICE keeps document states.

    Returns:
        The model, and its ``ModelMeta``. Its revision is the commit of a Hub repository, where no other length was
        asked for; of a folder, the hash of all that a score of MICE comes from, or that of another model's files.
    """
    model = load_model(name, device, max_length)
    if isinstance(model, MiceCrossEncoder):
        revision = None if Path(name).is_dir() or max_length is not None else model_revision(name)
        meta = make_model_meta(model, name, revision, codec)
        return MiceSearch(model, meta, codec), meta
    return model, make_model_meta(model, name, model_revision(name))


def model_revision(name: str) -> str:
    """Commit of a Hub repository, or the first 40 digits of the hash of a folder's files."""
    if Path(name).is_dir():
        return model_hash(name)[:40]
    return Path(hf_hub_download(name, "config.json")).parent.name  # files of a commit lie in a folder of its name


def import_mteb() -> Any:
    """Import mteb, or say how to get it."""
    try:
        import mteb
    except ImportError as error:
        raise ImportError('this needs mteb: pip install "mice-st[eval]"') from error
    return mteb


def _refuse_twice(what: str, ids: Sequence[str]) -> None:
    rows: dict[str, int] = {}
    for row, item in enumerate(ids):
        if rows.setdefault(item, row) != row:
            raise ValueError(f"{what}, row {row}: the id {item!r} is already in row {rows[item]}")


def _candidate_rows(candidates: dict[str, list[str]], document_ids: list[str]) -> dict[str, int]:
    """Document id -> row of the corpus, of all candidates, in the order of the corpus."""
    needed = {item for documents in candidates.values() for item in documents}
    rows = {item: row for row, item in enumerate(document_ids) if item in needed}
    for query_id, documents in candidates.items() if len(rows) < len(needed) else ():
        for item in documents:
            if item not in rows:
                raise ValueError(f"candidates of query {query_id!r}: document {item!r} is not in the corpus")
    return rows


def _read_texts(rows: Any, is_query: bool, **read: Any) -> list[str]:
    """Texts as mteb hands them to its own models: title, instruction and conversation put together."""
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    if not len(rows):
        return []
    prompt_type = PromptType.query if is_query else PromptType.document
    return [text for batch in create_dataloader(rows, prompt_type=prompt_type, **read) for text in batch["text"]]
