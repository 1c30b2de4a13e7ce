"""``mice-st demo --train``: from an embedding model to a trained, saved and re-loaded re-ranker, beside its rivals."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from tqdm.auto import tqdm

from mice_st.commands.demo_comparison import (
    Score,
    check_hub_folder,
    describe_machine,
    find_candidates,
    largest_difference,
    make_row,
    take_turns,
)
from mice_st.commands.demo_options import DemoOptions
from mice_st.conversion.convert import convert
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.data.python_docs import load_python_docs
from mice_st.data.runs import Run
from mice_st.data.wheels import find_backbone
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.plots import plot_quality_and_time
from mice_st.files import write_json
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.trainer import train

TOP_K = 100


def show_training(options: DemoOptions) -> None:
    """Train two models for as long as the options say, compare them with the rest, and print a table."""
    output = Path(options.output)
    print("1. Collection: the documentation of the installed Python")
    training, test = load_python_docs("train"), load_python_docs("test")
    print(f"   {len(test.corpus)} documents; {len(training.queries)} queries to train on, {len(test.queries)} to test")
    backbone = find_backbone()
    with tempfile.TemporaryDirectory() as work:
        print("2. Conversion: all-MiniLM-L6-v2 (6 layers) to MICE, 6 contextualisation + 2 interaction layers")
        start, report = convert(backbone, interaction_layers=2, max_sim_residual=True)
        print(f"   {report}")
        print(f"3. Training for {options.train_seconds:.0f} s each: MICE from stored states, and a cross-encoder")
        mice = train_mice(start, training, options, Path(work))
        cross_encoder = train_cross_encoder(backbone, training, options, Path(work))
    print("4. The Hub folder, loaded without mice-st in a fresh process")
    mice.save(str(output / "model"))
    shutil.copytree(backbone, output / "backbone", dirs_exist_ok=True)  # to try `mice-st convert` on
    cross_encoder.save(str(output / "cross-encoder"))  # to try `mice-st mask` on
    query = next(iter(test.queries.values()))
    check_hub_folder(output / "model", mice, query, list(test.corpus.values())[:10])
    print("5. Re-ranking BM25's 100 best documents")
    results = compare(options, test, mice, cross_encoder, SentenceTransformer(str(backbone), device="cpu"))
    write_json(output / "results.json", results)
    plot_quality_and_time(results["rows"], output / "quality_vs_time.png")
    print_table(results)
    print(f"Written: {output}/results.json, {output}/quality_vs_time.png, {output}/model/\n")
    print("Next, with your own files:")
    print(f'  mice-st rank "..." --model {output}/model --documents FILE')
    print(f"  mice-st encode --model {output}/model --documents FILE --store documents.sqlite")
    print(f"  mice-st train --model {output}/model --train-data FILE --output FOLDER")


def recipe_of(options: DemoOptions, work: Path, name: str, **fields: Any) -> TrainingRecipe:
    """A recipe with the rows, their order, batches and time that both models share."""
    return TrainingRecipe.from_flat(
        model=name,
        train_data=["python-docs"],
        output=str(work / name),
        negatives=7,
        negatives_top_k=50,
        batch_size=8,
        max_seconds=options.train_seconds,
        save_steps=100_000,  # the demo is done before a checkpoint is worth its time
        seed=options.seed,
        cpu=True,
        **fields,
    )


def train_mice(start: MiceCrossEncoder, collection: Collection, options: DemoOptions, work: Path) -> MiceCrossEncoder:
    """Train the interaction layers from states that are encoded once."""
    recipe = recipe_of(
        options,
        work,
        "mice",
        freeze_contextualization=True,
        learning_rate=1e-5,
        interaction_learning_rate_factor=3.0,
        head_learning_rate_factor=300.0,
        residual_learning_rate_factor=300.0,
    )
    result = train(recipe, model=start, train_collection=collection)
    print(f"   MICE: {result.steps} steps of {recipe.settings.batch_size} queries, {result.seconds:.0f} s")
    return start


def train_cross_encoder(backbone: Path, collection: Collection, options: DemoOptions, work: Path) -> CrossEncoder:
    """Train an ordinary cross-encoder on the same batches for the same time."""
    recipe = recipe_of(options, work, "cross-encoder", learning_rate=5e-5)
    model = CrossEncoder(
        str(backbone),
        num_labels=1,
        activation_fn=torch.nn.Identity(),
        device="cpu",
        max_length=256,
        local_files_only=True,
    )
    result = train(recipe, model=model, train_collection=collection)
    print(f"   cross-encoder: {result.steps} steps of {recipe.settings.batch_size} queries, {result.seconds:.0f} s")
    return model


def compare(
    options: DemoOptions,
    collection: Collection,
    mice: MiceCrossEncoder,
    cross_encoder: CrossEncoder,
    bi_encoder: SentenceTransformer,
) -> dict[str, Any]:
    """Re-rank with every system and measure quality and time."""
    query_ids = list(collection.queries)[: options.queries]
    # Evenly spread over the names, so that the cross-encoder's queries are not all of one module.
    step = max(1, len(query_ids) // options.cross_encoder_queries)
    sample = query_ids[::step][: options.cross_encoder_queries]
    candidates, bm25_ms = find_candidates(collection, query_ids, TOP_K)
    began = time.perf_counter()
    states = dict(zip(collection.corpus, mice.encode_documents(list(collection.corpus.values())), strict=True))
    seconds = time.perf_counter() - began
    half = {key: DocumentStates(value.states.half(), value.input_ids) for key, value in states.items()}
    tokens = sum(len(value) for value in half.values())
    print(f"   {len(half)} documents encoded once in {seconds:.0f} s; {2 * tokens * 384 / 1e6:.0f} MB in float16")
    vectors = dict(zip(collection.corpus, bi_encoder.encode(list(collection.corpus.values())), strict=True))
    systems: dict[str, Score] = {
        "bi-encoder": lambda query, ids: np.stack([vectors[i] for i in ids]) @ bi_encoder.encode(query),
        "cross-encoder": lambda query, ids: cross_encoder.predict([(query, collection.corpus[i]) for i in ids]),
        "mice": lambda query, ids: mice.predict([(query, collection.corpus[i]) for i in ids]),
        "mice-stored": lambda query, ids: mice.predict([(query, half[i]) for i in ids]),
    }
    runs, milliseconds = take_turns(systems, collection, candidates, sample)
    runs["bm25"], milliseconds["bm25"] = candidates, [bm25_ms]
    rest = [query_id for query_id in query_ids if query_id not in set(sample) and candidates[query_id]]
    for name in ("bi-encoder", "mice-stored"):
        runs[name] |= score_on_all_cores(systems[name], collection, candidates, rest)
    # Stored states change where the work is done, not the scores; MICE from texts is timed on the sample only.
    difference = largest_difference(runs["mice"], runs["mice-stored"])
    print(f"   scores from float16 states against scores from texts: largest difference {difference:.1e}")
    qrels = {query_id: collection.qrels[query_id] for query_id in query_ids}
    on_sample = {query_id: collection.qrels[query_id] for query_id in sample}
    rows, same = [], []
    for name in ("bm25", "bi-encoder", "cross-encoder", "mice", "mice-stored"):
        judged = on_sample if name == "cross-encoder" else qrels
        run = runs["mice-stored"] if name == "mice" else runs[name]
        rows.append(make_row(name, evaluate_run(judged, run), statistics.median(milliseconds[name])))
        same.append(make_row(name, evaluate_run(on_sample, run), statistics.median(milliseconds[name])))
    return {
        "rows": rows,
        "same_queries": same,
        "options": vars(options),
        "machine": describe_machine(),
    }


def score_on_all_cores(score: Score, collection: Collection, candidates: Run, query_ids: list[str]) -> Run:
    """Scores of queries that are not timed: one query per core is faster than all cores on one query."""

    def score_one(query_id: str) -> dict[str, float]:
        ids = list(candidates[query_id])
        return dict(zip(ids, map(float, score(collection.queries[query_id], ids)), strict=True))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            scored = tqdm(
                pool.map(score_one, query_ids), desc="Re-ranking", unit="query", total=len(query_ids), delay=2
            )
            return dict(zip(query_ids, scored, strict=True))
    finally:
        torch.set_num_threads(threads)


def print_table(results: dict[str, Any]) -> None:
    """The results as a table."""
    print(
        f"\n   {'system':<15}{'nDCG@10':>9}{'MRR@10':>9}{'ms/query':>10}{'queries':>9}   nDCG@10 on the cross-encoder's"
    )
    for row, same in zip(results["rows"], results["same_queries"], strict=True):
        figures = f"{row['ndcg@10']:>9.4f}{row['mrr@10']:>9.4f}{row['ms_per_query']:>10.1f}{row['queries']:>9}"
        print(f"   {row['system']:<15}{figures}{same['ndcg@10']:>12.4f}")
    print("   ms/query: median of scoring one query's candidates, the first stage not included; documents of the")
    print("   bi-encoder and of mice-stored are encoded beforehand.\n")
