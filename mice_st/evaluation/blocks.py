"""Re-ranking with MICE in bounded memory: candidates encoded once, queries streamed past blocks of their states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.runs import Run
from mice_st.states.memory import MemoryStates

# Tokens whose states are in memory at once: 1.6 GB at a width of 384 in float32.
TOKENS_AT_ONCE = 2**20
# Documents encoded together: like lengths find each other, and the progress bar moves.
DOCUMENTS_AT_ONCE = 1024
# Queries scored together: equal lengths find each other, and the memory stays bounded.
QUERIES_AT_ONCE = 16


def rank_in_blocks(
    model: MiceCrossEncoder,
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    candidates: Mapping[str, Iterable[str]],
    codecs: Sequence[str],
    batch_size: int = 64,
    tokens_at_once: int = TOKENS_AT_ONCE,
    show_progress_bar: bool | None = None,
) -> dict[str, Run]:
    """Score candidates from their states.

    The states of at most ``tokens_at_once`` tokens are in memory, under each codec. Where the candidates have more,
    they are taken in turns: each different text is still encoded once, and the queries, which are short, once for each
    turn.

    Args:
        model: The model.
        queries: Query id -> text.
        texts: Document id -> text.
        candidates: Query id -> document ids, or a run.
        codecs: How document states are kept; all are made of one encoding.
        batch_size: Pairs scored at a time.
        tokens_at_once: Upper bound on the tokens whose states are in memory, one slice of documents more at most.
        show_progress_bar: None shows one where the work takes over two seconds.

    Returns:
        Codec -> query id -> document id -> score, best first; equal scores stay in the order of the candidates.
    """
    items = {query_id: list(documents) for query_id, documents in candidates.items()}
    # Equal texts under several ids are one document.
    different = list(dict.fromkeys(texts[item] for documents in items.values() for item in documents))
    scores: dict[str, dict[tuple[str, str], float]] = {codec: {} for codec in codecs}
    for block in _encode_blocks(model, different, codecs, tokens_at_once, show_progress_bar):
        for codec, states in block.items():
            scores[codec] |= _score_block(model, queries, texts, items, states, batch_size, show_progress_bar)
    return {
        codec: {
            query_id: dict(
                sorted(((item, made[query_id, texts[item]]) for item in documents), key=lambda scored: -scored[1])
            )
            for query_id, documents in items.items()
        }
        for codec, made in scores.items()
    }


def _encode_blocks(
    model: MiceCrossEncoder, texts: list[str], codecs: Sequence[str], tokens_at_once: int, show: bool | None
) -> Iterator[dict[str, MemoryStates]]:
    """Encode every text once; codec -> text -> states."""
    # Like lengths together: batches are hardly padded.
    order = sorted(texts, key=lambda text: (len(text), text))
    block, tokens = {codec: MemoryStates(codec) for codec in codecs}, 0
    with progress_bar(len(order), "Encoding documents", "document", show) as progress:
        for start in range(0, len(order), DOCUMENTS_AT_ONCE):
            chunk = order[start : start + DOCUMENTS_AT_ONCE]
            for text, document in zip(chunk, model.encode_documents(chunk, show_progress_bar=False), strict=True):
                for states in block.values():
                    states.put(text, document)
                tokens += len(document.input_ids)
            progress.update(len(chunk))
            if tokens >= tokens_at_once:
                yield block
                block, tokens = {codec: MemoryStates(codec) for codec in codecs}, 0
    if tokens:
        yield block


def _score_block(
    model: MiceCrossEncoder,
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    items: Mapping[str, list[str]],
    states: MemoryStates,
    batch_size: int,
    show: bool | None,
) -> dict[tuple[str, str], float]:
    """Query id and text -> score, of the candidates that the block holds, some queries at a time."""
    held = set(states)
    scores: dict[tuple[str, str], float] = {}
    query_ids = list(items)
    with progress_bar(len(query_ids), "Re-ranking", "query", show) as progress:
        for start in range(0, len(query_ids), QUERIES_AT_ONCE):
            chunk = query_ids[start : start + QUERIES_AT_ONCE]
            cells = list(
                dict.fromkeys(
                    (query_id, texts[item]) for query_id in chunk for item in items[query_id] if texts[item] in held
                )
            )
            pairs: list[Any] = [(queries[query_id], states[text]) for query_id, text in cells]
            if pairs:
                predicted = model.predict(pairs, batch_size=batch_size, show_progress_bar=False)
                scores |= dict(zip(cells, map(float, predicted), strict=True))
            progress.update(len(chunk))
    return scores


def progress_bar(total: int, description: str, unit: str, show: bool | None) -> tqdm:
    """A progress bar; ``show`` None shows it where the work takes over two seconds."""
    return tqdm(total=total, desc=description, unit=unit, leave=False, delay=0 if show else 2, disable=show is False)
