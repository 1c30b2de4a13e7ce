"""The sentence-transformers module of MICE: raw (query, document) pairs in, scores out.

``modules.json`` of a Hub repository names this class, so that ``CrossEncoder(repo, trust_remote_code=True)`` works with
sentence-transformers alone. It tokenises queries and documents apart, each equal text once, each side cut to its own
maximum length; a pair may also hold a document's precomputed ``DocumentStates`` in place of its text.

Two constraints shape this file. It must not import ``modeling_mice``: transformers would load a second copy of the
classes. And it raises ValueError only: sentence-transformers answers a TypeError or an AttributeError in
``preprocess`` by calling again without the prompt.
"""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from transformers.utils import logging

from .inputs import check_pair, check_passages, check_text, count_pair_separators, is_states, pad_ids

logger = logging.get_logger(__name__)

# A token of real text is 4 to 5 characters long; the rest of a longer text cannot reach the model's window.
CHARACTERS_PER_TOKEN = 64
BUCKET_DOCUMENTS = 32
FAST_DOCUMENTS = 4  # with fewer documents per query, one padded batch of all queries is faster than the fast path


class MiceTransformer(Transformer):
    """MICE as the one module of a ``CrossEncoder``.

    Args:
        model_name_or_path: Folder or Hub id.
        **kwargs: As for sentence-transformers' ``Transformer``. ``processor_kwargs["model_max_length"]`` (which
            ``CrossEncoder(max_length=...)`` sets) overrides the longest document, in tokens.

    Raises:
        ValueError: If the tokenizer is not the model's own: ids beyond the vocabulary, or other [CLS] or [SEP].
    """

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        kwargs["transformer_task"] = "sequence-classification"
        kwargs["modality_config"] = {"text": {"method": "forward", "method_output_name": "logits"}}
        kwargs["module_output_name"] = "scores"
        super().__init__(model_name_or_path, **kwargs)
        self._check_tokenizer()
        self.cut_texts = {"query": 0, "document": 0}
        self._cuts_reported = False
        max_length = (kwargs.get("processor_kwargs") or {}).get("model_max_length")
        if max_length is not None:
            self.max_seq_length = max_length

    def _check_tokenizer(self) -> None:
        tokenizer, config = self.tokenizer, self.model.config
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, the model's vocabulary {config.vocab_size}: "
                "this is not the model's own tokenizer."
            )
        for name in ("cls_token_id", "sep_token_id"):
            if getattr(tokenizer, name, None) != getattr(config, name):
                raise ValueError(
                    f"The tokenizer's {name} is {getattr(tokenizer, name, None)}, the model's "
                    f"{getattr(config, name)}: this is not the model's own tokenizer."
                )
        if (separators := count_pair_separators(tokenizer)) != config.pair_separators:
            raise ValueError(
                f"The tokenizer puts {separators} [SEP] between query and document, the model expects "
                f"{config.pair_separators} (pair_separators): this is not the model's own tokenizer."
            )

    @property
    def max_seq_length(self) -> int:
        """Longest document, in tokens, [CLS] and [SEP] included. Queries have ``config.query_max_length``."""
        return self.model.config.document_max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        positions = self.model.config.max_positions
        if not 3 <= value <= positions:
            raise ValueError(f"max_seq_length: must lie between 3 and {positions} tokens, got {value}.")
        self.model.config.document_max_length = value

    def tokenize_side(self, texts: Sequence[Any], side: str, names: Sequence[str] | None = None) -> list[list[int]]:
        """Token ids of each text, its special tokens included, cut to the side's maximum length.

        Args:
            texts: Queries or documents, ``(n,)``. An empty string is a text of no tokens between [CLS] and [SEP].
                A text like "[SEP]" is read as its characters, never as a special token.
            side: ``"query"`` or ``"document"``.
            names: What an error calls each text; its position where it is left out.

        Returns:
            ``n`` lists of ids. Texts that were cut are counted in ``cut_texts[side]``.

        Raises:
            ValueError: If a text is not a string or holds a lone surrogate; names the text.
        """
        config = self.model.config
        max_length = config.query_max_length if side == "query" else config.document_max_length
        window = max_length * CHARACTERS_PER_TOKEN
        names = [f"{side} {position}" for position in range(len(texts))] if names is None else names
        for text, name in zip(texts, names, strict=True):
            check_text(text, name, window)
        if not texts:
            return []
        # `verbose` off: transformers would warn of every text longer than the window; ours are counted instead.
        ids = self.tokenizer(
            [text[:window] for text in texts],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=True,
            verbose=False,
        )["input_ids"]
        before, after = config.special_tokens(side)
        room = max_length - len(before) - len(after)
        self.cut_texts[side] += sum(len(row) > room or len(text) > window for row, text in zip(ids, texts, strict=True))
        return [[*before, *row[:room], *after] for row in ids]

    def report_cut_texts(self) -> None:
        """One warning with the number of texts cut since the last call; none where there were none."""
        cut, config = self.cut_texts, self.model.config
        if any(cut.values()):
            logger.warning(
                f"Cut {cut['query']} queries at {config.query_max_length} tokens and {cut['document']} documents at "
                f"{config.document_max_length} tokens (query_max_length and document_max_length of the config)."
            )
        self.cut_texts = {"query": 0, "document": 0}

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Tokenise pairs, each equal query and document once.

        Args:
            inputs: ``(query, document)`` pairs; a document is a string or its ``DocumentStates``. Single strings are
                tokenised as documents (sentence-transformers counts tokens that way for its model card).
            prompt: Put before every query.
            **kwargs: Ignored; sentence-transformers passes its own book-keeping here.

        Returns:
            A plain dict (a BatchEncoding breaks under DistributedDataParallel) of what ``forward`` reads.

        Raises:
            ValueError: If a row is not a pair of texts, or its states are those of several passages; names the row.
        """
        if all(isinstance(row, str) for row in inputs):
            ids, mask = pad_ids(self.tokenize_side(inputs, "document"))
            return {"input_ids": ids, "attention_mask": mask}
        queries: dict[str, int] = {}
        texts: dict[str, int] = {}
        stored: dict[int, Any] = {}
        pairs = []
        for row, pair in enumerate(inputs):
            query, document = check_pair(pair, row)
            check_text(query, f"pair {row}: the query")
            if is_states(document):
                check_passages(document, row, self.model.config.sep_token_id)
            else:
                check_text(document, f"pair {row}: the document", self.max_seq_length * CHARACTERS_PER_TOKEN)
            pairs.append(((prompt or "") + query, document))
        for query, document in pairs:
            queries.setdefault(query, len(queries))
            if is_states(document):
                stored[id(document)] = document
            else:
                texts.setdefault(document, len(texts))
        features = {}
        features["query_ids"], features["query_mask"] = pad_ids(self.tokenize_side(list(queries), "query"))
        if texts:
            features["document_ids"], features["document_mask"] = pad_ids(self.tokenize_side(list(texts), "document"))
        if stored:
            features["stored_ids"], features["stored_mask"] = pad_ids(
                [document.input_ids.tolist() for document in stored.values()]
            )
            states = [document.states for document in stored.values()]
            features["stored_states"] = nn.utils.rnn.pad_sequence(states, batch_first=True)
        places = {key: len(texts) + place for place, key in enumerate(stored)}
        features["query_index"] = torch.tensor([queries[query] for query, _ in pairs])
        features["document_index"] = torch.tensor(
            [places[id(document)] if is_states(document) else texts[document] for _, document in pairs]
        )
        if not self._cuts_reported and any(self.cut_texts.values()):
            self._cuts_reported = True  # one warning, not one per batch
            self.report_cut_texts()
        return features

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Score the pairs of ``preprocess``.

        Returns:
            ``features`` with ``scores``, ``(pairs, 1)``, float32 logits.

        Raises:
            ValueError: If ``preprocess`` was given single texts.
        """
        if "query_index" not in features:
            raise ValueError("Expected (query, document) pairs, got single texts.")
        queries = self.model.encode_queries(features["query_ids"], features["query_mask"])
        rows, logits = [], []
        offset = 0
        for kind in ("document", "stored"):
            if f"{kind}_ids" not in features:
                continue
            lengths = features[f"{kind}_mask"].sum(1)
            # Documents of like length together: one batch padded to its longest document is mostly padding.
            for places in lengths.argsort().split(BUCKET_DOCUMENTS):
                bucket = self._bucket(features, kind, places, int(lengths[places].max()), queries)
                asked = (features["document_index"].unsqueeze(1) == places + offset).nonzero()  # (pairs, 2): row, place
                query_index = features["query_index"][asked[:, 0]]
                if torch.is_grad_enabled() or len(asked) < FAST_DOCUMENTS * len(query_index.unique()):
                    rows.append(asked[:, 0])
                    logits.append(self.model.score(queries.select(query_index), bucket.select(asked[:, 1])))
                    continue
                documents = bucket.unpad()
                for query in query_index.unique():
                    mine = asked[query_index == query]
                    rows.append(mine[:, 0])
                    chosen = [documents[place] for place in mine[:, 1].tolist()]
                    logits.append(self.model.score_documents(queries.select(query.view(1)), chosen).unsqueeze(1))
            offset += len(lengths)
        features["scores"] = torch.cat(logits)[torch.cat(rows).argsort()]
        return features

    def _bucket(self, features: dict[str, Tensor], kind: str, places: Tensor, longest: int, queries: Any) -> Any:
        """Some of the documents as ``EncodedTexts``, padded to the longest of them."""
        ids, mask = features[f"{kind}_ids"][places, :longest], features[f"{kind}_mask"][places, :longest]
        if kind == "document":
            return self.model.encode_documents(ids, mask)
        states = features["stored_states"][places, :longest].to(queries.states.dtype)
        return type(queries)(states, mask, ids)
