"""``mice-st demo``: what the released model does on real documents, in under two minutes."""

from __future__ import annotations

import shutil
import statistics
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from mice_st.commands.demo_comparison import (
    Score,
    check_hub_folder,
    describe_machine,
    find_candidates,
    largest_difference,
    make_row,
    take_turns,
)
from mice_st.commands.demo_options import QUERIES, DemoOptions
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection, Document
from mice_st.data.python_docs import load_python_docs
from mice_st.data.wheels import find_backbone
from mice_st.evaluation.metrics import evaluate_run
from mice_st.files import write_json
from mice_st.loading import DEFAULT_MODEL, lasting_name, resolve_model
from mice_st.states.encoding import encode_corpus
from mice_st.states.engines import open_store
from mice_st.states.fingerprint import fingerprint_of, model_name
from mice_st.states.identity import StoreSettings
from mice_st.states.info import store_info
from mice_st.states.store import Store

# The README's first example.
SAMPLE_QUERY = "How do I split a string into words?"
SAMPLE_TEXTS = [
    "os.path.splitext Split the extension from a pathname. Extension is everything from the last dot to the end.",
    "str.split sep: the separator used to split the string. When set to None, splits on any whitespace character.",
    "random.shuffle Shuffle the list in place, and return None, using an optional source of random numbers.",
]
STORE = "python-docs.sqlite"
TOP_K = 50
# MICE from texts takes a second for each query, so only every tenth is scored that way.
QUERIES_OF_ONE_FROM_TEXTS = 10
STORED = f"{DEFAULT_MODEL}-stored"


def show_released_model(options: DemoOptions) -> None:
    """Load the released model, rank a query in three ways, and re-rank the documentation's test queries."""
    output = Path(options.output)
    folder = resolve_model(DEFAULT_MODEL)
    model = MiceCrossEncoder(folder, device="cpu", local_files_only=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"1. The model: {folder}, {model.mice.config.name}, {parameters / 1e6:.1f} million parameters")
    collection = load_python_docs("test")
    print("2. The documentation of the installed Python, each document encoded once, before there is any query")
    for path in output.glob(f"{STORE}*"):
        path.unlink()  # of an earlier demo: encoded anew, so that the time is this run's
    settings = StoreSettings(lasting_name(model_name(model)))  # whoever opens it need not name the model
    with open_store(output / STORE, fingerprint_of(model, "fp16", ""), read_only=False, settings=settings) as store:
        report = encode_corpus(model, [Document(*item) for item in collection.corpus.items()], store)
        megabytes = store_info(store, str(output / STORE)).state_bytes / 1e6
        print(f"   {report.added} documents in {report.seconds:.0f} s; {megabytes:.0f} MB of states in float16")
        print(f'3. A query, ranked in three ways: "{SAMPLE_QUERY}"')
        rank_sample(folder, model)
        print(f"4. Re-ranking BM25's {TOP_K} best documents")
        backbone = find_backbone()
        shutil.copytree(backbone, output / "backbone", dirs_exist_ok=True)  # to try `mice-st convert` on
        bi_encoder = SentenceTransformer(str(backbone), device="cpu")
        results = compare(model, bi_encoder, store, collection, options.queries or QUERIES)
    results |= {"options": vars(options), "machine": describe_machine()}
    write_json(output / "results.json", results)
    print_table(results["rows"])
    print(f"Written: {output}/results.json, {output}/{STORE}, {output}/backbone/\n")
    print("Next:")
    print(f'  mice-st rank "How do I copy a file?" --store {output}/{STORE}')
    print('  mice-st rank "..." --documents FILE')
    print("  mice-st encode --documents FILE --store documents.sqlite")
    print(f"  mice-st convert --model {output}/backbone --output FOLDER")
    print("  mice-st demo --train")


def rank_sample(folder: str, model: MiceCrossEncoder) -> None:
    """Rank the sample's texts: by mice-st, without it, and from states encoded before. Prints the ranking and how far apart the scores are."""
    ranking = model.rank(SAMPLE_QUERY, SAMPLE_TEXTS)
    for entry in ranking:
        text = SAMPLE_TEXTS[entry["corpus_id"]]
        print(f"   {entry['score']:>8.4f}  {textwrap.shorten(text, 90, placeholder=' …')}")
    check_hub_folder(folder, model, SAMPLE_QUERY, SAMPLE_TEXTS)
    from_texts, from_states = (
        {str(entry["corpus_id"]): entry["score"] for entry in found}
        for found in (ranking, model.rank(SAMPLE_QUERY, model.encode_documents(SAMPLE_TEXTS)))
    )
    difference = largest_difference({"sample": from_texts}, {"sample": from_states})
    print(f"   MiceCrossEncoder over document states: largest difference of {len(ranking)} scores {difference:.1e}")


def compare(
    model: MiceCrossEncoder, bi_encoder: SentenceTransformer, store: Store, collection: Collection, queries: int
) -> dict[str, Any]:
    """Re-rank and measure quality and time."""
    # Evenly spread over the names, so that the queries are not all of a few modules.
    step = max(1, len(collection.queries) // queries)
    query_ids = list(collection.queries)[::step][:queries]
    candidates, bm25_ms = find_candidates(collection, query_ids, TOP_K)
    wanted = sorted({item for found in candidates.values() for item in found})
    vectors = dict(zip(wanted, bi_encoder.encode([collection.corpus[item] for item in wanted]), strict=True))

    def from_store(query: str, ids: list[str]) -> list[float]:
        scores = {entry["corpus_id"]: entry["score"] for entry in model.rank(query, store=store, ids=ids)}
        return [scores[item] for item in ids]

    systems: dict[str, Score] = {
        "bi-encoder": lambda query, ids: np.stack([vectors[i] for i in ids]) @ bi_encoder.encode(query),
        STORED: from_store,
        DEFAULT_MODEL: lambda query, ids: model.predict([(query, collection.corpus[i]) for i in ids]),
    }
    every = {DEFAULT_MODEL: QUERIES_OF_ONE_FROM_TEXTS}
    runs, milliseconds = take_turns(systems, collection, candidates, query_ids, every)
    difference = largest_difference(runs[DEFAULT_MODEL], runs[STORED])
    print(
        f"   scores from the store against scores from texts, {len(runs[DEFAULT_MODEL])} queries: "
        f"largest difference {difference:.1e}"
    )
    runs |= {"bm25": candidates, DEFAULT_MODEL: runs[STORED]}  # the same scores, as was just checked
    milliseconds["bm25"] = [bm25_ms]
    qrels = {query_id: collection.qrels[query_id] for query_id in query_ids}
    rows = [
        make_row(name, evaluate_run(qrels, runs[name]), statistics.median(milliseconds[name]))
        for name in ("bm25", "bi-encoder", DEFAULT_MODEL, STORED)
    ]
    return {"rows": rows, "largest_difference": difference}


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    print(f"\n   {'system':<18}{'nDCG@10':>9}{'MRR@10':>9}{'ms/query':>10}{'queries':>9}")
    for row in rows:
        figures = f"{row['ndcg@10']:>9.4f}{row['mrr@10']:>9.4f}{row['ms_per_query']:>10.1f}{row['queries']:>9}"
        print(f"   {row['system']:<18}{figures}")
    print("   ms/query: median of scoring one query's candidates, the first stage not included. The bi-encoder's and")
    print(
        f"   {STORED}'s documents were encoded beforehand; {DEFAULT_MODEL} encodes them for each query, and its quality is"
    )
    print("   measured on the scores from the store.\n")
