"""The sentence-transformers module of MICE: raw (query, document) pairs in, scores out.

``modules.json`` of a Hub repository names this class, so that ``CrossEncoder(repo, trust_remote_code=True)`` works with
sentence-transformers alone. It tokenises queries and documents apart, each equal text once, each side cut to its own
maximum length; a pair may also hold a document's precomputed ``DocumentStates`` in place of its text.

Two constraints shape this file. It must not import ``modeling_mice``: transformers would load a second copy of the
classes. And it raises ValueError only: sentence-transformers answers a TypeError or an AttributeError in
``preprocess`` by calling again without the prompt.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.utils import logging

logger = logging.get_logger(__name__)

REQUIREMENTS = {"sentence-transformers": ">=5.4", "transformers": ">=5"}  # checked before any of this code is loaded

# A token of real text is 4 to 5 characters long; the rest of a longer text cannot reach the model's window.
CHARACTERS_PER_TOKEN = 64
# Padded tokens of one forward pass. On a CPU small batches of like length are fastest: nothing is gained by more rows,
# and every row of padding costs as much as a token. Other devices want to be filled.
CPU_BATCH_TOKENS = 1024
DEVICE_BATCH_TOKENS = 65_536
BUCKET_DOCUMENTS = 32  # documents of like length that are scored together
FAST_DOCUMENTS = 4  # with fewer documents per query, one padded batch of all queries is faster than the fast path


class MiceTransformer(Transformer):
    """MICE as the one module of a ``CrossEncoder``.

    Args:
        model_name_or_path: Folder or Hub id.
        **kwargs: As for sentence-transformers' ``Transformer``. ``processor_kwargs["model_max_length"]`` (which
            ``CrossEncoder(max_length=...)`` sets) overrides the longest document, in tokens.

    Raises:
        ValueError: If the tokenizer is not the model's own: ids beyond the vocabulary, fewer than half of its words, or
            other [CLS] or [SEP]; or if another backend than torch is asked for.
    """

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        if (backend := kwargs.get("backend", "torch")) != "torch":
            raise ValueError(
                f"backend={backend!r}: {model_name_or_path} is a MICE re-ranker, which encodes query and document apart and "
                "runs with backend='torch' only."
            )
        kwargs["transformer_task"] = "sequence-classification"
        kwargs["modality_config"] = {"text": {"method": "forward", "method_output_name": "logits"}}
        kwargs["module_output_name"] = "scores"
        super().__init__(model_name_or_path, **kwargs)
        check_tokenizer(self.tokenizer, self.model.config)
        self.model.config.unk_token_id = self.tokenizer.unk_token_id  # which folders of earlier versions do not say
        self._tokenizer_copy: tuple[Any, int, Tokenizer] | None = None
        self._cuts_lock = threading.Lock()
        self.cut_texts = {"query": 0, "document": 0}
        self._cuts_reported = False
        max_length = (kwargs.get("processor_kwargs") or {}).get("model_max_length")
        if max_length is not None:
            self.max_seq_length = max_length

    def __getstate__(self) -> dict[str, Any]:
        """A lock belongs to one process, and a pickled tokenizer forgets that special tokens in texts are text."""
        return {name: value for name, value in self.__dict__.items() if name != "_cuts_lock"} | {
            "_tokenizer_copy": None
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._cuts_lock = threading.Lock()

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """As in sentence-transformers, whichever class saves: the folder keeps what it requires, and how it is to be tokenised."""
        super().save(output_path, *args, **kwargs)
        complete_settings(Path(output_path))

    @property
    def max_seq_length(self) -> int:
        """Longest document, in tokens, [CLS] and [SEP] included. Queries have ``config.query_max_length``."""
        return self.model.config.document_max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        positions = self.model.config.max_positions
        if value < 3:
            raise ValueError(f"max_seq_length: must be at least 3 tokens, got {value}.")
        if value > positions:
            logger.warning(
                f"max_seq_length: {value} tokens are more than the model's {positions} positions, which hold."
            )
        self.model.config.document_max_length = min(value, positions)

    @property
    def input_device(self) -> torch.device:
        """Where inputs belong: the model's device, or the one that accelerate's offload computes on."""
        device: torch.device = self.model.device
        if device.type != "meta":
            return device
        hooks = [module.__dict__.get("_hf_hook") for module in self.model.modules()]
        hooks += [part for hook in hooks for part in getattr(hook, "hooks", ())]
        devices = [getattr(hook, "execution_device", None) for hook in hooks]
        return next((torch.device(item) for item in devices if item is not None), device)

    # ------------------------------------------------------------------------------------------------------- tokenisation

    def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, ``(n,)``, without special tokens and of any length; "[SEP]" in a text is read as its characters.

        A tokenizer's truncation is its state, which a call in another thread changes: this reads with a copy of its own.
        """
        backend = self.tokenizer.backend_tokenizer
        known = self._tokenizer_copy
        if known is None or known[0] is not backend or known[1] != backend.get_vocab_size():
            copy = Tokenizer.from_str(backend.to_str())
            copy.no_truncation()
            copy.no_padding()
            copy.encode_special_tokens = True
            self._tokenizer_copy = known = (backend, backend.get_vocab_size(), copy)
        return [encoding.ids for encoding in known[2].encode_batch_fast(list(texts), add_special_tokens=False)]

    def tokenize_side(
        self, texts: Sequence[Any], side: str, names: Sequence[str] | None = None, max_length: int | None = None
    ) -> list[list[int]]:
        """Token ids of each text, its special tokens included, cut to the side's maximum length.

        Args:
            texts: Queries or documents, ``(n,)``. An empty string is a text of no tokens between [CLS] and [SEP].
                A text like "[SEP]" is read as its characters, never as a special token.
            side: ``"query"`` or ``"document"``.
            names: What an error calls each text; its position where it is left out.
            max_length: Longest text, in tokens; None takes the config's.

        Returns:
            ``n`` lists of ids. Texts that were cut are counted in ``cut_texts[side]``.

        Raises:
            ValueError: If a text is not a string or holds a lone surrogate; names the text.
        """
        config = self.model.config
        if max_length is None:
            max_length = config.query_max_length if side == "query" else config.document_max_length
        window = max_length * CHARACTERS_PER_TOKEN
        names = [f"{side} {position}" for position in range(len(texts))] if names is None else names
        for text, name in zip(texts, names, strict=True):
            check_text(text, name, window)
        if not texts:
            return []
        ids = self.tokenize_texts([text[:window] for text in texts])
        before, after = config.special_tokens(side)
        room = max_length - len(before) - len(after)
        cut = sum(len(row) > room or len(text) > window for row, text in zip(ids, texts, strict=True))
        with self._cuts_lock:
            self.cut_texts[side] += cut
        return [[*before, *row[:room], *after] for row in ids]

    def report_cut_texts(self) -> None:
        """One warning with the number of texts cut since the last call; none where there were none."""
        with self._cuts_lock:
            cut, self.cut_texts = self.cut_texts, {"query": 0, "document": 0}
        if any(cut.values()):
            config = self.model.config
            logger.warning(
                f"Cut {cut['query']} queries at {config.query_max_length} tokens and {cut['document']} documents at "
                f"{config.document_max_length} tokens (query_max_length and document_max_length of the config)."
            )

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Tokenise pairs, each equal query and document once.

        Args:
            inputs: ``(query, document)`` pairs; a document is a string or its ``DocumentStates``. Single strings are
                tokenised as documents (sentence-transformers counts tokens that way for its model card).
            prompt: Put before every query.
            processing_kwargs: ``{"text": {"max_length": n}}`` cuts documents at n tokens for this call.
            **kwargs: Ignored; sentence-transformers passes its own book-keeping here.

        Returns:
            A plain dict (a BatchEncoding breaks under DistributedDataParallel) of what ``forward`` reads.

        Raises:
            ValueError: If a row is not a pair of texts, or its states are those of several passages; names the row.
        """
        max_length = self.read_processing_kwargs(processing_kwargs)
        if all(isinstance(row, str) for row in inputs):
            ids, mask = pad_ids(self.tokenize_side(inputs, "document", None, max_length))
            return {"input_ids": ids, "attention_mask": mask}
        queries: dict[str, int] = {}
        texts: dict[str, int] = {}
        stored: dict[int, int] = {}
        states, query_index, document_index = [], [], []
        for row, pair in enumerate(inputs):
            query, document = check_pair(pair, row)
            check_text(query, f"pair {row}: the query")
            query_index.append(queries.setdefault((prompt or "") + query, len(queries)))
            if is_states(document):
                check_passages(document, row, self.model.config.sep_token_id)
                if id(document) not in stored:
                    states.append(document)
                document_index.append(-1 - stored.setdefault(id(document), len(stored)))
            else:
                check_text(document, f"pair {row}: the document", self.max_seq_length * CHARACTERS_PER_TOKEN)
                document_index.append(texts.setdefault(document, len(texts)))
        # States come behind the texts.
        document_index = [place if place >= 0 else len(texts) - 1 - place for place in document_index]
        features = self.collate(
            self.tokenize_side(list(queries), "query"),
            self.tokenize_side(list(texts), "document", None, max_length),
            states,
            query_index,
            document_index,
        )
        if not self._cuts_reported and any(self.cut_texts.values()):
            self._cuts_reported = True  # one warning, not one per batch
            self.report_cut_texts()
        return features

    def read_processing_kwargs(self, given: Mapping[str, Any] | None) -> int | None:
        """The longest document that sentence-transformers' ``processing_kwargs`` ask for, in tokens; None for the config's.

        Raises:
            ValueError: If they ask for anything else; names it.
        """
        settings: dict[str, Any] = {}
        for source in (self.processing_kwargs, given or {}):
            for name in source:
                if name not in ("text", "common"):
                    raise ValueError(f"processing_kwargs: MICE reads text alone, got settings for {name!r}.")
                settings |= source[name]
        max_length = settings.pop("max_length", None)
        # Both sides are always cut and padded.
        if other := sorted(set(settings) - {"truncation", "padding"}):
            raise ValueError(f"processing_kwargs: MICE takes max_length for the document, and not {', '.join(other)}.")
        if max_length is not None and not 3 <= max_length <= self.model.config.max_positions:
            raise ValueError(
                f"processing_kwargs: max_length must lie between 3 and {self.model.config.max_positions} tokens, got {max_length}."
            )
        return max_length

    def collate(
        self,
        queries: Sequence[list[int]],
        documents: Sequence[list[int]],
        states: Sequence[Any],
        query_index: Sequence[int],
        document_index: Sequence[int],
    ) -> dict[str, Any]:
        """Pad what ``forward`` reads.

        Args:
            queries: Token ids of each query.
            documents: Token ids of each document that is given as a text.
            states: ``DocumentStates`` of one passage each; they come behind the texts.
            query_index: The query of each pair.
            document_index: The document of each pair, among texts and states.
        """
        features: dict[str, Any] = {}
        features["query_ids"], features["query_mask"] = pad_ids(queries)
        if documents:
            features["document_ids"], features["document_mask"] = pad_ids(documents)
        if states:
            features["states"] = list(states)  # unpadded, where they are: the fast path reads each in its place
        features["query_index"] = torch.tensor(query_index, dtype=torch.long)
        features["document_index"] = torch.tensor(document_index, dtype=torch.long)
        return features

    # ------------------------------------------------------------------------------------------------------------- forward

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Score the pairs of ``collate``.

        Returns:
            ``features`` with ``scores``, ``(pairs, 1)``, float32 logits.

        Raises:
            ValueError: If ``preprocess`` was given single texts.
        """
        if "query_index" not in features:
            raise ValueError(
                "This is a MICE re-ranker, which scores (query, document) pairs: load it with CrossEncoder, and give "
                "pairs in place of single texts."
            )
        queries = self.model.encode_queries(features["query_ids"], features["query_mask"])
        query_index, document_index = features["query_index"], features["document_index"]
        rows, logits = [], []
        for is_text, places, index, longest in self._plan_buckets(features):
            pairs = (document_index.unsqueeze(1) == index).nonzero()  # (p, 2): row, place in the bucket
            if is_text:
                ids, mask = (features[f"document_{name}"][index, :longest] for name in ("ids", "mask"))
                documents = self.model.encode_documents(ids, mask)
            else:
                documents = [features["states"][place] for place in places]
            rows.append(pairs[:, 0])
            logits.append(self._score_pairs(queries, query_index[pairs[:, 0]], documents, pairs[:, 1]))
        features["scores"] = torch.cat(logits)[torch.cat(rows).argsort()]
        return features

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # places are plain numbers
    def _plan_buckets(self, features: dict[str, Any]) -> list[tuple[bool, list[int], Tensor, int]]:
        """Documents that are scored together.

        Returns:
            Of each bucket whether it holds texts or states, their places among these, their places among all documents,
            ``(b,)``, int64, and the longest of them, in tokens.
        """
        document_index = features["document_index"]
        plan, texts = [], 0
        if "document_mask" in features:
            lengths, texts = features["document_mask"].sum(1).tolist(), len(features["document_mask"])
            plan += [
                (True, places, lengths[places[0]]) for places in self.like_lengths(lengths, None, BUCKET_DOCUMENTS)
            ]
        if states := features.get("states"):
            lengths = [len(document.input_ids) for document in states]
            buckets = list(self.like_lengths(lengths, None, BUCKET_DOCUMENTS))
            if self._is_fast(features["query_index"][document_index >= texts]):
                buckets = [list(range(len(states)))]  # nothing is padded there
            plan += [(False, places, lengths[places[0]]) for places in buckets]
        return [
            (is_text, places, torch.tensor(places, device=document_index.device) + (0 if is_text else texts), longest)
            for is_text, places, longest in plan
        ]

    def _is_fast(self, query_index: Tensor) -> bool:
        """Whether the fast path pays for pairs of these queries; it has no gradients."""
        return not torch.is_grad_enabled() and len(query_index) >= FAST_DOCUMENTS * len(query_index.unique())

    def _score_pairs(self, queries: Any, query_index: Tensor, documents: Any, places: Tensor) -> Tensor:
        """Logits ``(p, 1)`` of p pairs.

        Args:
            queries: A padded batch.
            query_index: The query of each pair, ``(p,)``.
            documents: A padded batch, or a list of ``DocumentStates``.
            places: The document of each pair, ``(p,)``.
        """
        is_list = isinstance(documents, list)
        if not self._is_fast(query_index):
            dtype, device = queries.states.dtype, queries.states.device
            padded = type(queries).pad(documents, dtype, device) if is_list else documents
            return self.model(queries=queries.select(query_index), documents=padded.select(places)).logits
        unpadded = documents if is_list else documents.unpad()
        logits = torch.empty(len(places), 1, device=places.device, dtype=torch.float32)
        for query in query_index.unique():
            mine = (query_index == query).nonzero().flatten()
            chosen = [unpadded[place] for place in places[mine].tolist()]
            logits[mine, 0] = self.model.score_documents(queries.select(query.view(1)), chosen)
        return logits

    # ------------------------------------------------------------------------------------------------------- states alone

    def like_lengths(
        self, lengths: Sequence[int], tokens: int | None = None, documents: int | None = None
    ) -> Iterator[list[int]]:
        """Positions of texts of like length, longest first: one batch padded to its longest text is mostly padding.

        Args:
            lengths: Tokens of each text.
            tokens: Upper bound on padded tokens in one batch; a longer text goes alone. None takes what suits the device.
            documents: Upper bound on texts in one batch; None for none.
        """
        if tokens is None:
            tokens = CPU_BATCH_TOKENS if self.input_device.type == "cpu" else DEVICE_BATCH_TOKENS
        order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
        start = 0
        while start < len(order):
            count = max(1, tokens // lengths[order[start]])
            count = count if documents is None else min(count, documents)
            yield order[start : start + count]
            start += count

    @torch.no_grad()
    def encode_ids(
        self, ids: Sequence[list[int]], side: str, batch_tokens: int | None = None
    ) -> Iterator[tuple[list[int], Any]]:
        """Contextualise tokenised texts, longest first.

        Args:
            ids: Token ids of each text, special tokens included.
            side: ``"query"`` or ``"document"``.
            batch_tokens: Upper bound on padded tokens in one forward pass; a longer text goes alone. None takes what suits
                the device.

        Yields:
            The positions of some texts, and these texts as ``EncodedTexts``.
        """
        self.eval()
        encode = self.model.encode_queries if side == "query" else self.model.encode_documents
        for positions in self.like_lengths(list(map(len, ids)), batch_tokens):
            input_ids, mask = pad_ids([ids[position] for position in positions])
            yield positions, encode(input_ids.to(self.input_device), mask.to(self.input_device))


def complete_settings(folder: Path) -> None:
    """Add to a saved folder's settings, as far as it has them, what it requires and how its texts are to be tokenised."""
    added: dict[str, dict[str, Any]] = {
        "config_sentence_transformers.json": {"requirements": REQUIREMENTS},
        "tokenizer_config.json": {"split_special_tokens": True},  # a text like "[SEP]" is text, for whoever tokenises
    }
    for name, fields in added.items():
        path = folder / name
        if path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8")) | fields
            for leaked in ("is_local", "local_files_only"):  # how transformers loaded it, not what it is
                settings.pop(leaked, None)
            path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------------- checks


def check_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    """Refuse a tokenizer whose words are not those of a model.

    transformers makes one of five words, without a word of warning, where ``tokenizer.json`` is missing. A vocabulary may be
    larger than the tokenizer's (padded), but not twice as large.

    Args:
        tokenizer: A tokenizer of transformers.
        vocab_size: Token ids that the model has.

    Raises:
        ValueError: If it has more words than the model, or fewer than half as many.
    """
    if len(tokenizer) > vocab_size or max(tokenizer.get_vocab().values()) >= vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the model's vocabulary {vocab_size}: "
            "this is not the model's own tokenizer."
        )
    if len(tokenizer) < vocab_size / 2:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, fewer than half of the model's vocabulary of {vocab_size}: "
            "this is not the model's own tokenizer, or its tokenizer.json is missing."
        )


def check_tokenizer(tokenizer: Any, config: Any) -> None:
    """Refuse a tokenizer that is not the model's own.

    Args:
        tokenizer: A fast tokenizer of transformers.
        config: A ``MiceConfig``.

    Raises:
        ValueError: As ``check_vocabulary``, or if it has other special tokens or separators.
    """
    check_vocabulary(tokenizer, config.vocab_size)
    for name in ("cls_token_id", "sep_token_id"):
        theirs, ours = getattr(tokenizer, name, None), getattr(config, name)
        if theirs != ours:
            raise ValueError(
                f"The tokenizer's {name} is {theirs}, the model's {ours}: this is not the model's own tokenizer."
            )
    if (separators := count_pair_separators(tokenizer)) != config.pair_separators:
        raise ValueError(
            f"The tokenizer puts {separators} [SEP] between query and document, the model expects "
            f"{config.pair_separators} (pair_separators): this is not the model's own tokenizer."
        )


def count_pair_separators(tokenizer: Any) -> int:
    """How many [SEP] a tokenizer puts between query and document: 1, or 2 as RoBERTa's do.

    Raises:
        ValueError: If its pair encoding is neither ``[CLS] query [SEP] document [SEP]`` nor the same with two.
    """
    query, document = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
    pair = tokenizer("a", "b")["input_ids"]
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    for count in (1, 2):
        if pair == [cls_id, *query, *[sep_id] * count, *document, sep_id]:
            return count
    raise ValueError(
        f"The tokenizer joins query and document as {tokenizer.convert_ids_to_tokens(pair)}: its separators cannot be "
        "recognised. MICE reads [CLS] query [SEP] document [SEP], or two [SEP] between."
    )


def is_states(document: Any) -> bool:
    """Whether a document is given as ``DocumentStates``, whichever copy of that class made it."""
    return hasattr(document, "states") and hasattr(document, "input_ids")


def check_passages(document: Any, row: int, sep_token_id: int) -> None:
    """Refuse the states of a document that was cut into passages: read as one text they would get a wrong score."""
    passages = int((document.input_ids == sep_token_id).sum())
    if passages > 1:
        raise ValueError(
            f"pair {row}: the document is made of {passages} passages, which are scored one by one: rank it with "
            "MiceCrossEncoder of mice-st, or give each passage as a document."
        )


def check_pair(pair: Any, row: int) -> tuple[Any, Any]:
    """Refuse what is not a pair, naming its row."""
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError(f"pair {row}: expected (query, document), got {pair!r:.80}.")
    return pair[0], pair[1]


def check_text(text: Any, name: str, window: int | None = None) -> None:
    """Refuse what is not text, or cannot be encoded as UTF-8 within its first ``window`` characters."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is of type {type(text).__name__}, not a string.")
    try:
        text[:window].encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds a lone surrogate at character {error.start}.") from error


def pad_ids(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ragged token ids to ``input_ids`` ``(n, longest)``, int64, and their mask, bool."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
