"""What a corpus says before any training: how rare each token is, and in which directions states differ.

A conversion starts from it where it is given texts: rare tokens weigh more in the MaxSim residual, and a narrow model keeps
the directions that hold most of the states.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.sources import load_collection

TEXTS_AT_ONCE = 1000
# Principal directions of a few hundred values settle within some ten thousand tokens.
MOST_ENCODED = 500
MOST_TEXTS = 6000  # of each collection: document frequencies of common tokens are long settled


def sample_texts(sources: Sequence[str], seed: int) -> list[str]:
    """Texts of documents, as many of each collection, in a drawn order.

    Args:
        sources: Collections as ``load_collection`` takes them; of queries and judgements nothing is used.
        seed: Of the drawing.
    """
    generator = random.Random(seed)
    texts = []
    for source in sources:
        corpus = list(load_collection(source, "train").corpus.values())
        texts += generator.sample(corpus, min(MOST_TEXTS, len(corpus)))
    generator.shuffle(texts)
    return texts


def inverse_document_frequencies(model: MiceCrossEncoder, texts: Sequence[str]) -> Tensor:
    """How rare each token is in texts, as BM25 weighs it.

    Args:
        model: Gives the tokenizer and the length to which documents are cut.
        texts: Documents.

    Returns:
        ``(vocabulary,)``, float32: ``ln(1 + (N - f + 0.5) / (f + 0.5))`` for a token that is in f of N texts
        (Robertson and Zaragoza 2009, with Lucene's 1 that keeps it positive).

    Raises:
        ValueError: If there is no text.
    """
    if not texts:
        raise ValueError("texts: there is none to count tokens in")
    config = model.mice.config
    counts = torch.zeros(config.vocab_size)
    with tqdm(total=len(texts), desc="Counting tokens", unit="document", delay=2, leave=False) as progress:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = list(texts[start : start + TEXTS_AT_ONCE])
            encoded = model.tokenizer(part, truncation=True, max_length=config.document_max_length)
            for ids in encoded["input_ids"]:
                counts[list(set(ids))] += 1
            progress.update(len(part))
    return torch.log1p((len(texts) - counts + 0.5) / (counts + 0.5))


@torch.no_grad()
def principal_directions(model: MiceCrossEncoder, texts: Sequence[str], width: int) -> Tensor:
    """The directions in which contextualised states are longest: cosines survive the projection best.

    Args:
        model: Its contextualisation layers encode the first ``MOST_ENCODED`` texts.
        texts: Documents.
        width: Directions to keep.

    Returns:
        ``(width, hidden)``, float32, orthonormal rows.

    Raises:
        ValueError: If there is no text.
    """
    if not texts:
        raise ValueError("texts: there is none to encode")
    mice = model.mice
    moments = torch.zeros(mice.config.hidden_size, mice.config.hidden_size, dtype=torch.float64)
    some = sorted(texts[:MOST_ENCODED], key=len)
    for start in tqdm(range(0, len(some), 16), "Finding directions", unit="batch", delay=2, leave=False):
        batch = model.tokenizer(
            some[start : start + 16],
            truncation=True,
            max_length=mice.config.document_max_length,
            padding=True,
            return_tensors="pt",
        ).to(mice.device)
        # As documents are encoded, whatever the options, but for the projection that is looked for.
        states = mice.readable(mice._encode(batch["input_ids"], batch["attention_mask"], "document", None).states)
        rows = states[batch["attention_mask"].bool()].double().cpu()
        moments += rows.T @ rows
    _, directions = torch.linalg.eigh(moments)
    return directions[:, -width:].flip(1).T.float().contiguous()


@torch.no_grad()
def start_from_texts(model: MiceCrossEncoder, texts: Sequence[str]) -> None:
    """Give a fresh conversion its start values: term weights of the MaxSim residual, and the projections of a narrow model.

    Args:
        model: Changed in place.
        texts: Documents like those that it will rank.

    Raises:
        ValueError: If the model has nothing that starts from texts, or there is no text.
    """
    mice = model.mice
    if mice.max_sim_residual is None and mice.document_projection is None:
        raise ValueError("data: neither max_sim_residual nor interaction_hidden_size is there to start from them")
    if mice.max_sim_residual is not None:
        mice.max_sim_residual.log_weights.copy_(inverse_document_frequencies(model, texts).log())
    if mice.document_projection is not None:
        directions = principal_directions(model, texts, mice.config.interaction_width)
        mice.document_projection.weight.copy_(directions)
        mice.query_projection.weight.copy_(directions)
