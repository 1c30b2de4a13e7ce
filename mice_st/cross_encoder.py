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
from torch import Tensor, nn
from tqdm.autonotebook import tqdm

from mice_st.model_folder import MODULE_REFERENCE, complete_hub_folder
from mice_st.modeling.inputs import check_pair, check_text, is_states
from mice_st.modeling.modeling_mice import DocumentStates, EncodedTexts, MiceForSequenceClassification
from mice_st.modeling.st_mice import CHARACTERS_PER_TOKEN, MiceTransformer
from mice_st.states.passages import check_overlap, join_passages, score_passages, tokenize_documents
from mice_st.states.ranking import rank_store
from mice_st.states.shards import encode_batches
from mice_st.states.store import Store

BLOCK_TOKENS = 131_072  # tokens whose states are in memory while pairs are scored: 200 MB at a width of 384


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
                "Turn a cross-encoder, encoder or embedding model into MICE with mice_st.conversion.convert."
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
        documents: Sequence[str],
        batch_tokens: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        passages: bool = False,
        overlap: int | None = None,
    ) -> list[DocumentStates]:
        """Contextualise documents once, without any query.

        Args:
            documents: Raw texts, ``(n,)``. Cut at ``config.document_max_length`` tokens; one warning counts the cut.
            batch_tokens: Upper bound on padded tokens in one forward pass; a longer document goes alone. None takes what
                suits the device.
            show_progress_bar: None shows one where the work takes over two seconds.
            passages: Cut a longer document into overlapping passages instead, kept side by side in its states; its
                score is then that of its best passage.
            overlap: Tokens that neighbouring passages share; None for a quarter of a passage.

        Returns:
            One ``DocumentStates`` per text, in input order; ``states`` is ``(n_tokens, hidden)``, in the model's dtype.

        Raises:
            ValueError: If ``documents`` is one string, or a document is not a string; gives its position.
        """
        refuse_single_text(documents)
        tokenized = tokenize_documents(self.module, documents, self._overlap(passages, overlap))
        with make_progress_bar(sum(map(len, tokenized)), "Documents", show_progress_bar) as progress:
            encoded = self._encode_tokenized(tokenized, batch_tokens, progress)
        self.module.report_cut_texts()
        return encoded

    def _overlap(self, passages: bool, overlap: int | None) -> int | None:
        """What ``tokenize_documents`` takes; None for documents that are cut."""
        return check_overlap(self.module, overlap) if passages else None

    def _encode_tokenized(
        self, documents: Sequence[list[list[int]]], batch_tokens: int | None, progress: tqdm
    ) -> list[DocumentStates]:
        """Encode documents given as the token ids of their passages."""
        self.eval()
        encoded: dict[int, DocumentStates] = {}
        ids = [passage for document in documents for passage in document]
        for positions, batch in encode_batches(self.module, ids, batch_tokens, self.mice.encode_documents):
            encoded |= zip(positions, batch.unpad(), strict=True)
            progress.update(len(positions))
        in_order = (encoded[position] for position in range(len(ids)))
        return [join_passages(list(islice(in_order, len(document)))) for document in documents]

    # Takes earlier names of the arguments too: sentences, activation_fct, ...
    @cross_encoder_predict_rank_args_decorator  # type: ignore[untyped-decorator]
    def predict(
        self,
        inputs: Sequence[Any],
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
            inputs: ``(query, document)`` pairs, ``(n,)``, or one pair. A document is a string or ``DocumentStates``.
            prompt_name: Name of a saved prompt to put before every query.
            prompt: Text to put before every query.
            batch_size: Pairs scored at a time.
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
            **kwargs: Passed on to sentence-transformers with ``pool`` or a list of devices.

        Returns:
            One score per pair, in input order; one scalar for one pair; an empty array for an empty list.

        Raises:
            ValueError: If a row is not a pair of texts, naming it; if ``batch_size`` is not positive; if a score is
                not finite.
        """
        if batch_size <= 0:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size}.")
        is_single_pair = self.is_singular_input(inputs)
        pairs = [inputs] if is_single_pair else list(inputs)
        for row, pair in enumerate(pairs):
            if isinstance(pair, np.ndarray):
                pairs[row] = pair = pair.tolist()
            query, document = check_pair(pair, row)
            check_text(query, f"pair {row}: the query")
            if not is_states(document):
                window = None if passages else self.max_seq_length * CHARACTERS_PER_TOKEN
                check_text(document, f"pair {row}: the document", window)
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
            batch_size,
            show_progress_bar,
            self._overlap(passages, overlap),
        )
        scores = (activation_fn or self.activation_fn)(scores)
        if is_single_pair:
            return scores[0] if convert_to_tensor or not convert_to_numpy else scores[0].cpu().numpy()[()]
        if convert_to_tensor:
            return scores
        return scores.cpu().numpy() if convert_to_numpy else list(scores)

    @cross_encoder_predict_rank_args_decorator  # type: ignore[untyped-decorator]
    def rank(
        self,
        query: str,
        documents: Sequence[str | DocumentStates] | None = None,
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
        first_stage: str | None = None,
        candidates: int = 100,
        passages: bool = False,
        overlap: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents for one query, as ``CrossEncoder.rank`` does, over texts, over their states or over a store.

        Args:
            query: The query.
            documents: Texts, ``DocumentStates`` from ``encode_documents``, or a mixture. Left out with a store.
            top_k: How many to return; None returns all.
            return_documents: Put the document under ``text``.
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
            first_stage: ``"bm25"`` over the stored texts, ``"pooled"`` over the pooled vectors, or ``"both"`` fused by
                reciprocal rank; None takes both for a model with the pooled residual, else BM25.
            candidates: Documents that the first stage is to find; at least ``top_k``.
            passages: As for ``encode_documents``, for documents given as texts. Those of a store are as they were put.
            overlap: As for ``encode_documents``.

        Returns:
            Dictionaries with ``corpus_id`` (position in ``documents``, or the id in the store) and ``score`` (a Python
            float), and ``text`` with ``return_documents=True``, best first.

        Raises:
            ValueError: If ``documents`` is one string, or there are both documents and a store, or neither; otherwise
                as ``predict``.
            StoreError: Of the store; an unknown id, another model's store or a damaged row each have their own.
        """
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
                top_k=top_k,
                return_documents=return_documents,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                activation_fn=activation_fn or self.activation_fn,
            )
        if documents is None or ids is not None or first_stage is not None:
            raise ValueError("rank: expected documents, or a store (with ids or a first_stage, if wanted).")
        refuse_single_text(documents)
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

    @torch.inference_mode()
    def _score_pairs(
        self,
        pairs: list[tuple[str, Any]],
        batch_size: int,
        show_progress_bar: bool | None,
        overlap: int | None = None,
    ) -> Tensor:
        """Score pairs query by query over blocks of documents; within a block each text is encoded once."""
        self.eval()
        scores = torch.empty(len(pairs), device=self.device)
        rows_of: dict[str, dict[Any, list[int]]] = {}  # query -> document -> rows
        stored: dict[int, DocumentStates] = {}
        for row, (query, document) in enumerate(pairs):
            key = id(document) if is_states(document) else document
            if is_states(document):
                stored[key] = document
            rows_of.setdefault(query, {}).setdefault(key, []).append(row)
        texts = list(dict.fromkeys(document for _, document in pairs if not is_states(document)))
        queries = dict(zip(rows_of, self._encode_queries(list(rows_of)), strict=True))
        tokenized = tokenize_documents(self.module, texts, overlap, [f"document {text[:40]!r}" for text in texts])
        self.module.report_cut_texts()

        def score_block(block: dict[Any, DocumentStates]) -> None:
            for query, documents in rows_of.items():
                keys = [key for key in documents if key in block]
                logits = score_passages(self.mice, queries[query], [block[key] for key in keys], batch_size)
                for key, logit in zip(keys, logits, strict=True):
                    scores[documents[key]] = logit

        lengths = [sum(map(len, document)) for document in tokenized]
        with make_progress_bar(sum(map(len, tokenized)), "Documents", show_progress_bar) as progress:
            for start, stop in token_blocks(lengths, BLOCK_TOKENS):
                encoded = self._encode_tokenized(tokenized[start:stop], None, progress)
                score_block(dict(zip(texts[start:stop], encoded, strict=True)))
        if stored:
            score_block(stored)
        return scores

    def _encode_queries(self, queries: list[str]) -> list[EncodedTexts]:
        """Contextualise queries, prompts included: one batch of one per query, without padding."""
        ids = self.module.tokenize_side(queries, "query")
        encoded: dict[int, EncodedTexts] = {}
        for positions, batch in encode_batches(self.module, ids, None, self.mice.encode_queries):
            for place, position in enumerate(positions):
                tokens = len(ids[position])
                encoded[position] = EncodedTexts(*(field[place : place + 1, :tokens] for field in batch))
        return [encoded[position] for position in range(len(queries))]

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save the folder that goes to the Hub: weights, tokenizer, configs and the modelling code itself.

        Args:
            path: Folder, made where it is missing.
            *args: As for ``CrossEncoder.save``.
            **kwargs: As for ``CrossEncoder.save``.
        """
        super().save(path, *args, **kwargs)
        complete_hub_folder(Path(path))

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        # sentence-transformers would ask for trust_remote_code; the installed code is the same and already trusted.
        if class_ref in (MODULE_REFERENCE, f"{MiceTransformer.__module__}.{MiceTransformer.__name__}"):
            return MiceTransformer
        return super()._load_module_class_from_ref(class_ref, *args, **kwargs)


def refuse_single_text(documents: Any) -> None:
    """A string is a sequence of characters; where documents are wanted it is a mistake."""
    if isinstance(documents, (str, bytes)):
        raise ValueError(f"documents: expected a list of texts, got one {type(documents).__name__}.")


def make_progress_bar(total: int, description: str, show: bool | None) -> tqdm:
    """A progress bar; ``show=None`` lets it appear only after two seconds."""
    return tqdm(total=total, desc=description, disable=show is False, delay=0 if show else 2)


def token_blocks(lengths: list[int], block_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut texts of these lengths into consecutive ``(start, stop)`` of at most ``block_tokens``, one text at least."""
    start = tokens = 0
    for position, length in enumerate(lengths):
        if tokens and tokens + length > block_tokens:
            yield start, position
            start, tokens = position, 0
        tokens += length
    if start < len(lengths):
        yield start, len(lengths)
