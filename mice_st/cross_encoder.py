"""``MiceCrossEncoder``: sentence-transformers' ``CrossEncoder`` with documents that can be encoded once.

``predict`` and ``rank`` keep their arguments and return types. New is what MICE makes possible: documents contextualised
without any query (``encode_documents``), and ranking over those states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.util import cross_encoder_predict_rank_args_decorator
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from tqdm.autonotebook import tqdm

from mice_st.data.inputs import as_pairs, as_text, as_texts
from mice_st.model_folder import MODULE_REFERENCE, complete_hub_folder
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from mice_st.modeling.st_mice import CHARACTERS_PER_TOKEN, MiceTransformer, check_pair, check_text, is_states
from mice_st.states.passages import check_overlap, join_passages, split_passages, tokenize_documents
from mice_st.states.ranking import rank_store, refuse_not_finite
from mice_st.states.store import Store

BLOCK_TOKENS = 16_384  # tokens of the documents that are scored in one forward pass: about a second's work on a CPU
BLOCK_QUERIES = 128  # different queries of a forward pass: with their pairs, they take as much memory as the documents
STATES_COST = 1 / 16  # of a stored token, beside one that is encoded


class MiceCrossEncoder(CrossEncoder):
    """A MICE re-ranker.

    Loads folders and Hub repositories of MICE with the installed code, without ``trust_remote_code``, and takes the
    same arguments as ``CrossEncoder``. Scores are logits: the default activation is the identity, because a sigmoid
    reaches exactly 1.0 at a logit of 16.7 and makes ties.

    Raises:
        ValueError: If the model is not MICE, its checkpoint lacks or exceeds tensors, or its tokenizer is another
            model's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self[0], MiceTransformer):
            raise ValueError(
                f"This is not a MICE model: its first module is {type(self[0]).__name__}. "
                "Turn a cross-encoder, encoder or embedding model into MICE with mice_st.convert."
            )

    @property
    def module(self) -> MiceTransformer:
        """The sentence-transformers module: tokenizer and lengths."""
        return self[0]

    @property
    def mice(self) -> MiceForSequenceClassification:
        """The transformers model: weights and config."""
        return self[0].model

    def get_default_activation_fn(self) -> Callable:
        """The identity: scores are logits."""
        return nn.Identity()

    def encode_documents(
        self,
        documents: Any,
        batch_tokens: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        passages: bool = False,
        overlap: int | None = None,
    ) -> list[DocumentStates]:
        """Contextualise documents once, without any query.

        Args:
            documents: Texts, ``(n,)``, in any form that ``mice_st.data.inputs.as_texts`` takes: a list, array, Series, generator, data frame
                or dataset with a column ``text``, LangChain's documents. Cut at ``config.document_max_length`` tokens; one warning counts the cut.
            batch_tokens: Upper bound on padded tokens in one forward pass; a longer document goes alone. None takes what
                suits the device.
            show_progress_bar: None shows one where the work takes over two seconds.
            passages: Cut a longer document into overlapping passages instead, kept side by side in its states; its
                score is then that of its best passage.
            overlap: Tokens that neighbouring passages share; None for a quarter of a passage.

        Returns:
            One ``DocumentStates`` per text, in input order; ``states`` is ``(n_tokens, hidden)``, in the model's dtype.

        Raises:
            ValueError: If ``documents`` is one string, a set or a mapping, or a document is no text; gives its position.
        """
        texts: list[str] = []
        for place, text in enumerate(as_texts(documents, window=self._window(passages))):
            if not isinstance(text, str):
                raise ValueError(f"document {place} is encoded already.")
            texts.append(text)
        tokenized = tokenize_documents(self.module, texts, check_overlap(self.module, overlap) if passages else None)
        with make_progress_bar(sum(map(len, tokenized)), "Documents", show_progress_bar) as progress:
            encoded = self._encode_tokenized(tokenized, batch_tokens, progress)
        self.module.report_cut_texts()
        return encoded

    def _window(self, passages: bool) -> int | None:
        """Characters of a document that can be read; None for all."""
        return None if passages else self.mice.config.document_max_length * CHARACTERS_PER_TOKEN

    def _encode_tokenized(
        self, documents: Sequence[list[list[int]]], batch_tokens: int | None, progress: tqdm
    ) -> list[DocumentStates]:
        """Encode documents given as the token ids of their passages."""
        encoded: dict[int, DocumentStates] = {}
        ids = [passage for document in documents for passage in document]
        for positions, batch in self.module.encode_ids(ids, "document", batch_tokens):
            encoded |= zip(positions, batch.unpad(), strict=True)
            progress.update(len(positions))
        in_order = (encoded.pop(position) for position in range(len(ids)))
        return [join_passages(list(islice(in_order, len(document)))) for document in documents]

    # Takes earlier names of the arguments too: sentences, activation_fct, ...
    @cross_encoder_predict_rank_args_decorator  # type: ignore[untyped-decorator]
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        *,
        passages: bool = False,
        overlap: int | None = None,
        **kwargs: Any,
    ) -> list[Tensor] | np.ndarray | Tensor:
        """Score pairs, as ``CrossEncoder.predict`` does; each equal query and document is encoded once.

        Args:
            inputs: ``(query, document)`` pairs, ``(n,)``, or one pair. A document is a string, ``DocumentStates``, or what else a row of
                ``rank`` may be. Pairs come in a list, array, Series or generator, or as a data frame or dataset of two columns.
            prompt_name: Name of a saved prompt to put before every query.
            prompt: Text to put before every query.
            batch_size: Accepted for compatibility; pairs are scored in blocks of like length whatever it is.
            show_progress_bar: None shows one where the work takes over two seconds.
            activation_fn: Applied to the logits, float32; None takes the model's own, the identity.
            apply_softmax: Accepted for compatibility; without effect on a model with one label.
            convert_to_numpy: Return an array, ``(n,)``, float32.
            convert_to_tensor: Return a tensor, ``(n,)``, float32; wins over ``convert_to_numpy``.
            device: Device to move the model to, or a list of devices to spread the pairs over.
            pool: Worker processes of ``start_multi_process_pool``.
            chunk_size: Pairs handed to a worker at a time.
            passages: As for ``encode_documents``, for documents given as texts.
            overlap: As for ``encode_documents``.
            **kwargs: ``processing_kwargs={"text": {"max_length": n}}`` cuts documents at n tokens for this call; nothing else.

        Returns:
            One score per pair, in input order; one scalar for one pair; an empty array for an empty list.

        Raises:
            ValueError: If a row is not a pair of texts, naming it; if ``batch_size`` is not positive; if a score is
                not finite.
        """
        if batch_size <= 0:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size}.")
        if unknown := sorted(kwargs.keys() - {"processing_kwargs"}):
            raise ValueError(f"predict: there is no argument {unknown[0]!r}.")
        max_length = self.module.read_processing_kwargs(kwargs.get("processing_kwargs"))
        pairs, is_single_pair = as_pairs(inputs)
        window = self._window(passages)
        for row, pair in enumerate(pairs):
            query, document = check_pair(pair, row)
            check_text(query, f"pair {row}: the query")
            pairs[row] = (query, as_text(document, f"pair {row}: the document", window))
        if pool is not None or isinstance(device, list):
            if passages:
                raise ValueError("passages: worker processes score pairs whole; use one device.")
            return super().predict(
                pairs[0] if is_single_pair else pairs,
                prompt_name=prompt_name,
                prompt=prompt,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                activation_fn=activation_fn,
                apply_softmax=apply_softmax,
                convert_to_numpy=convert_to_numpy,
                convert_to_tensor=convert_to_tensor,
                device=device,
                pool=pool,
                chunk_size=chunk_size,
                **kwargs,
            )
        if device is not None:
            self.to(device)
        prompt = self._resolve_prompt(prompt, prompt_name) or ""
        scores = self._score_pairs(
            [(prompt + query, document) for query, document in pairs],
            show_progress_bar,
            check_overlap(self.module, overlap) if passages else None,
            max_length,
        )
        scores = (activation_fn or self.activation_fn)(scores)
        refuse_not_finite(scores)
        if is_single_pair:
            return scores[0] if convert_to_tensor or not convert_to_numpy else scores[0].cpu().numpy()[()]
        if convert_to_tensor:
            return scores
        return scores.cpu().numpy() if convert_to_numpy else list(scores)

    @cross_encoder_predict_rank_args_decorator  # type: ignore[untyped-decorator]
    def rank(
        self,
        query: str,
        documents: Any = None,
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable | None = None,
        device: str | list[str | torch.device] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        *,
        store: Store | None = None,
        ids: Sequence[str] | None = None,
        first_stage: str | Sequence[str] | None = None,
        candidates: int = 100,
        where: dict[str, Any] | None = None,
        passages: bool = False,
        overlap: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents for one query, as ``CrossEncoder.rank`` does, over texts, over their states or over a store.

        Args:
            query: The query.
            documents: Texts, ``DocumentStates`` from ``encode_documents``, or a mixture, in any form that
                ``mice_st.data.inputs.as_texts`` takes: a list, array, Series, generator, data frame or dataset with a column ``text``,
                LangChain's documents. Left out with a store.
            top_k: How many to return, at least 1; None returns all.
            return_documents: Put the text that was scored, a title before it, or the states, under ``text``.
            prompt_name: As for ``predict``, like all that follow.
            prompt: Text to put before the query.
            batch_size: Pairs scored at a time.
            show_progress_bar: None shows one where the work takes over two seconds.
            activation_fn: Applied to the logits.
            device: Device, or list of devices.
            pool: Worker processes of ``start_multi_process_pool``.
            chunk_size: Pairs handed to a worker at a time.
            store: An open store of document states that this model made; see ``mice_st.states.encoding``.
            ids: Documents of the store; None ranks those that the first stage finds in it.
            first_stage: ``"bm25"`` over the stored texts, ``"vectors"`` over the pooled vectors, or a list of them fused
                by reciprocal rank; None takes both for a model with the pooled residual, else BM25.
            candidates: Documents that the first stage is to find; at least ``top_k``.
            where: Conditions on the metadata of stored documents, which hold before the first stage.
            passages: As for ``encode_documents``, for documents given as texts. Those of a store are as they were put.
            overlap: As for ``encode_documents``.

        Returns:
            Dictionaries with ``corpus_id`` (position in ``documents`` from 0, whatever index they have, or the id in the store) and ``score`` (a Python
            float), and ``text`` with ``return_documents=True``, best first.

        Raises:
            ValueError: If ``documents`` is one string, a set or a mapping, a document is no text (naming its position), ``top_k`` is
                below 1, or there are both documents and a store, or neither; otherwise as ``predict``.
            StoreError: Of the store; an unknown id, another model's store or a damaged row each have their own.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k: must be at least 1, got {top_k}.")
        if store is not None:
            if documents is not None or pool is not None or isinstance(device, list) or passages:
                raise ValueError("rank: documents, passages and several devices do not go with a store.")
            if device is not None:
                self.to(device)
            return rank_store(
                self.module,
                store,
                query,
                prompt=self._resolve_prompt(prompt, prompt_name) or "",
                ids=ids,
                first_stage=first_stage,
                candidates=candidates,
                where=where,
                top_k=top_k,
                return_documents=return_documents,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                activation_fn=activation_fn or self.activation_fn,
            )
        if documents is None or ids is not None or first_stage is not None or where is not None:
            raise ValueError("rank: expected documents, or a store (with ids or a first_stage, if wanted).")
        documents = as_texts(documents, window=self._window(passages))
        if passages:
            scores = self.predict(
                [(query, document) for document in documents],
                prompt_name=prompt_name,
                prompt=prompt,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                activation_fn=activation_fn,
                convert_to_tensor=True,
                device=device,
                pool=pool,
                passages=True,
                overlap=overlap,
            ).tolist()
            order = sorted(range(len(scores)), key=lambda position: -scores[position])[:top_k]
            texts = [{"text": documents[position]} if return_documents else {} for position in order]
            return [{"corpus_id": at, "score": scores[at], **text} for at, text in zip(order, texts, strict=True)]
        return super().rank(
            query,
            documents,
            top_k=top_k,
            return_documents=return_documents,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )

    @torch.no_grad()
    def _score_pairs(
        self,
        pairs: list[tuple[str, Any]],
        show_progress_bar: bool | None,
        overlap: int | None,
        max_length: int | None,
    ) -> Tensor:
        """Score pairs ``(n,)``, float32; a document of several passages by the best of them.

        Documents go through ``__call__`` in blocks of at most ``BLOCK_TOKENS``, those of like length together, with at most
        ``BLOCK_QUERIES`` queries at a time: what is computed takes the memory of one block, however many pairs there are, beside 8 bytes for
        each token. A document is encoded once for each ``BLOCK_QUERIES`` of its queries, a query once for each block that asks for it.
        """
        self.eval()
        queries: dict[str, int] = {}
        passages: list[Any] = []  # token ids, or the states of one
        places: dict[Any, range] = {}  # document -> its passages
        texts = list(dict.fromkeys(document for _, document in pairs if not is_states(document)))
        names = [f"document {text[:40]!r}" for text in texts]
        for text, ids in zip(texts, tokenize_documents(self.module, texts, overlap, names, max_length), strict=True):
            places[text] = range(len(passages), len(passages) + len(ids))
            passages += ids
        requests: list[list[tuple[int, int]]] = [[] for _ in passages]  # passage -> (query, row of the pair)
        for row, (query, document) in enumerate(pairs):
            key = id(document) if is_states(document) else document
            if key not in places:
                parts = split_passages(document, self.mice.config.sep_token_id)
                places[key] = range(len(passages), len(passages) + len(parts))
                passages += parts
                requests += [[] for _ in parts]
            for place in places[key]:
                requests[place].append((queries.setdefault(query, len(queries)), row))
        query_ids = self.module.tokenize_side(list(queries), "query")
        self.module.report_cut_texts()
        scores = torch.full((len(pairs),), -torch.inf, dtype=torch.float32, device=self.module.input_device)
        lengths = list(map(len, passages))
        costs = [
            length * (STATES_COST if is_states(item) else 1) for item, length in zip(passages, lengths, strict=True)
        ]
        with make_progress_bar(sum(lengths), "Documents", show_progress_bar) as progress:
            order = sorted(range(len(passages)), key=lambda place: -lengths[place])
            asked = [{query for query, _ in asking} for asking in requests]
            for block in document_blocks(order, costs, asked):
                for part in query_parts(block, requests):
                    features, rows = self._collate_block(part, passages, query_ids)
                    logits = self(batch_to_device(features, scores.device))["scores"].squeeze(-1)
                    scores.scatter_reduce_(0, rows.to(scores.device), logits, "amax")
                progress.update(sum(lengths[place] for place in block))
        return scores

    def _collate_block(
        self, part: dict[int, list[tuple[int, int]]], passages: list[Any], query_ids: list[list[int]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The input of ``forward`` for some passages, with the queries that ask for them; and the row of each pair, ``(p,)``."""
        texts = [place for place in part if not is_states(passages[place])]
        states = [place for place in part if is_states(passages[place])]
        queries: dict[int, int] = {}
        query_index, document_index, rows = [], [], []
        for position, place in enumerate([*texts, *states]):
            for query, row in part[place]:
                query_index.append(queries.setdefault(query, len(queries)))
                document_index.append(position)
                rows.append(row)
        features = self.module.collate(
            [query_ids[query] for query in queries],
            [passages[place] for place in texts],
            [passages[place] for place in states],
            query_index,
            document_index,
        )
        return features, torch.tensor(rows, dtype=torch.long)

    def save(
        self, path: str, model_name: str | None = None, create_model_card: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Save the folder that goes to the Hub: weights, tokenizer, configs and the modelling code itself.

        Args:
            path: Folder, made where it is missing.
            model_name: Hub id that the card's example loads; None loads the folder itself.
            create_model_card: Write a card; one of the user's own that the model was loaded with is kept.
            *args: As for ``CrossEncoder.save``.
            **kwargs: As for ``CrossEncoder.save``.
        """
        super().save(path, model_name, create_model_card, *args, **kwargs)
        complete_hub_folder(Path(path), model_name, create_model_card)

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        # sentence-transformers would ask for trust_remote_code; the installed code is the same and already trusted.
        if class_ref in (MODULE_REFERENCE, f"{MiceTransformer.__module__}.{MiceTransformer.__name__}"):
            return MiceTransformer
        return super()._load_module_class_from_ref(class_ref, *args, **kwargs)


def make_progress_bar(total: int, description: str, show: bool | None) -> tqdm:
    """A progress bar; ``show=None`` lets it appear only after two seconds."""
    return tqdm(total=total, desc=description, disable=show is False, delay=0 if show else 2)


def document_blocks(order: list[int], costs: list[float], asked: list[set[int]]) -> Iterator[list[int]]:
    """Cut documents, in this order, into blocks that cost at most ``BLOCK_TOKENS``, one document at least.

    A block is asked for by at most ``BLOCK_QUERIES`` queries, or by few more than one of its documents alone: documents that many queries
    share are scored together.
    """
    block: list[int] = []
    queries: set[int] = set()
    tokens = 0.0
    for place in order:
        together = queries | asked[place]
        too_many = len(together) > max(BLOCK_QUERIES, 2 * len(asked[place]))
        if block and (tokens + costs[place] > BLOCK_TOKENS or too_many):
            yield block
            block, tokens, together = [], 0.0, asked[place]
        block.append(place)
        queries = together
        tokens += costs[place]
    if block:
        yield block


def query_parts(block: list[int], requests: list[list[tuple[int, int]]]) -> Iterator[dict[int, list[tuple[int, int]]]]:
    """The requests ``(query, row)`` for each document of a block, those of ``BLOCK_QUERIES`` queries at a time."""
    queries = list(dict.fromkeys(query for place in block for query, _ in requests[place]))
    for start in range(0, len(queries), BLOCK_QUERIES):
        now = set(queries[start : start + BLOCK_QUERIES])
        part = {place: [request for request in requests[place] if request[0] in now] for place in block}
        yield {place: asking for place, asking in part.items() if asking}
