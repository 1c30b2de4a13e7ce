"""From a cross-encoder under Mask3 to MICE: without loss, and what each of MICE's two own steps costs.

Under Mask3 a document never sees the query, so its states can be computed beforehand. MICE goes two steps further: it
freezes them at the fusion layer (one state per document, not one per layer), and it splits one softmax over the query's
and the document's tokens into self- and cross-attention. Without both steps it is the masked cross-encoder.

With two interaction layers the first step costs nothing at all: [CLS] does not read the document itself, so what the
query's tokens read of it in the last layer comes too late, and the layer before reads the very states that are frozen.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mice_st.conversion.convert import convert
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.research.laboratory.experiment import Experiment, Retraining
from mice_st.research.laboratory.ladder import describe, largest_difference, load_masked, require_classifier
from mice_st.research.masking import MaskedCrossEncoder

LARGEST_DIFFERENCE = 1e-5  # float32; what counts as without loss
QUERY_TOKENS = 64  # at most a quarter of the pair

# The four of them: how a row of the table is called, and the fields of MiceConfig.
VARIANTS = {
    "lossless": {"document_states": "per_layer", "interaction_attention": "joint"},
    "frozen states": {"document_states": "frozen", "interaction_attention": "joint"},
    "split softmax": {"document_states": "per_layer", "interaction_attention": "split"},
    "both: MICE": {"document_states": "frozen", "interaction_attention": "split"},
}


def measure_conversion(
    source: str,
    fusion_layer: int,
    experiment: Experiment,
    retraining: Retraining | None,
    output: Path,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Convert a cross-encoder under Mask3 to MICE in four ways and compare their scores with its own.

    Texts are cut beforehand so that every pair fits: a cross-encoder would cut the longer side of a pair, MICE each side
    by itself.

    Args:
        source: Folder or Hub id of the cross-encoder.
        fusion_layer: Layers that keep query and document apart; they become the contextualisation layers.
        experiment: What to measure, and to train, on.
        retraining: How to train the masked cross-encoder before it is converted; None trains nothing.
        output: Folder for the lossless conversion (``mice-lossless``) and the trained source.
        max_length: Longest pair, in tokens; None takes the model's own.

    Returns:
        A row for the masked cross-encoder, then one for each of ``VARIANTS``: ``step``, ``ndcg@10``, ``mrr@10``,
        ``difference`` (largest difference of a score from the masked cross-encoder's), ``bytes_per_token`` (of the
        document states, float16) and ``ms_per_query`` (documents of MICE encoded beforehand).

    Raises:
        ValueError: If the source has no trained classifier, or does not fit MICE; see ``check_conversion``.
    """
    check_conversion(source, fusion_layer, max_length)
    preset = f"mask3-l{fusion_layer}"
    masked = load_masked(source, preset, max_length, restart_positions=True)
    if retraining is None:
        require_classifier(source)
    else:
        source = str(output / f"{preset}-restarted")
        retraining.train(masked, experiment, Path(source))
    lengths = choose_lengths(masked)
    evaluator = cut_to_fit(experiment.evaluator, masked, *lengths)
    began = time.perf_counter()
    reference = evaluator.rerank(masked)
    milliseconds = 1000 * (time.perf_counter() - began) / max(1, len(reference))
    qrels = evaluator.collection.qrels
    rows = [
        {
            **describe(preset, evaluate_run(qrels, reference)),
            "difference": 0.0,
            "bytes_per_token": None,
            "ms_per_query": milliseconds,
        }
    ]
    for name, fields in tqdm(VARIANTS.items(), "Conversions", unit="model", delay=2, leave=False):
        model = convert_masked(source, fusion_layer, masked, fields, lengths)
        if name == "lossless":
            model.save(str(output / "mice-lossless"))
        stored = RerankingEvaluator(
            evaluator.collection, evaluator.candidates, evaluator.name, keep_states=True, codec="fp32"
        )
        run = stored.rerank(model)
        began = time.perf_counter()
        stored.rerank(model)  # the second time documents are there already
        milliseconds = 1000 * (time.perf_counter() - began) / max(1, len(run))
        rows.append(
            {
                **describe(name, evaluate_run(qrels, run)),
                "difference": largest_difference(reference, run),
                "bytes_per_token": 2 * model.mice.config.state_width,
                "ms_per_query": milliseconds,
            }
        )
    return rows


def check_conversion(source: str, fusion_layer: int, max_length: int | None) -> None:
    """Refuse a source that does not convert without loss, before anything takes long.

    Raises:
        ValueError: If its separators, its backbone or the number of layers left do not fit MICE.
    """
    masked = load_masked(source, f"mask3-l{fusion_layer}", max_length, restart_positions=True)
    check_layout(masked)
    convert_masked(source, fusion_layer, masked, VARIANTS["lossless"], choose_lengths(masked))


def check_layout(masked: MaskedCrossEncoder) -> None:
    """Refuse what MICE cannot carry over.

    Raises:
        ValueError: If two separators stand between the sides.
    """
    separators = masked[0].masks.layout.separators
    if separators != 1:
        raise ValueError(
            f"convert: the tokenizer writes {separators} separators between query and document, and MICE keeps one of "
            "them, so the conversion cannot be without loss"
        )


def choose_lengths(masked: MaskedCrossEncoder) -> tuple[int, int]:
    """Longest query and longest document, in tokens as MICE counts them, that together fill a pair."""
    longest = int(masked.tokenizer.model_max_length)
    query = min(QUERY_TOKENS, longest // 4)
    return query, longest - query


def convert_masked(
    source: str, fusion_layer: int, masked: MaskedCrossEncoder, fields: dict[str, Any], lengths: tuple[int, int]
) -> MiceCrossEncoder:
    """Convert with what Mask3 leaves of a pair's frame: the document without a [CLS] of its own, and so on."""
    query_length, document_length = lengths
    return convert(
        source,
        fusion_layer,
        masked.layers - fusion_layer,
        mask3_frame=True,
        cls_attends_document=False,
        **fields,
        query_max_length=query_length,
        document_max_length=document_length,
    )[0]


def cut_to_fit(
    evaluator: RerankingEvaluator, masked: MaskedCrossEncoder, query_length: int, document_length: int
) -> RerankingEvaluator:
    """The same candidates with texts that fit: a query beside [CLS] and [SEP], a document beside its [SEP].

    States are kept in float32: float16 would move scores by more than what is to be seen.
    """
    given = evaluator.collection
    wanted = {item: given.corpus[item] for items in evaluator.candidates.values() for item in items}
    # The other documents are judged perhaps, but never scored.
    corpus = given.corpus | cut_texts(wanted, masked.tokenizer, document_length - 1)
    queries = cut_texts(given.queries, masked.tokenizer, query_length - 2)
    collection: Collection = replace(given, corpus=corpus, queries=queries)
    return RerankingEvaluator(collection, evaluator.candidates, evaluator.name, evaluator.batch_size, codec="fp32")


def cut_texts(texts: dict[str, str], tokenizer: Any, tokens: int) -> dict[str, str]:
    """Cut texts behind their first tokens; ids stay."""
    cut = {}
    for item, text in texts.items():
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        cut[item] = text if len(spans) <= tokens else text[: spans[tokens - 1][1]]
    return cut
