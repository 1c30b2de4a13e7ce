"""From a cross-encoder to MICE, one interaction at a time: python examples/derive_mice.py CROSS_ENCODER [DATA] [SPLIT].

CROSS_ENCODER is a folder or Hub id of a BERT or ELECTRA cross-encoder (``mice-st demo --train`` leaves one, barely trained, in
``demo_output/cross-encoder``). DATA is a BEIR folder; left out, it is the documentation of the installed Python.
"""

import sys
import tempfile
from pathlib import Path

from mice_st import convert
from mice_st.research.laboratory.equivalence import choose_lengths, convert_masked, cut_to_fit
from mice_st.research.laboratory.experiment import Retraining, load_experiment
from mice_st.research.laboratory.ladder import count_layers, largest_difference, load_masked


def main(source: str = "demo_output/cross-encoder", data: str = "python-docs", split: str = "test") -> None:
    # Twenty queries with BM25's twenty best documents each, and the rest of the collection to train on.
    experiment = load_experiment(data, split, "train", queries=20, top_k=20, seed=0)
    layers = count_layers(source)
    fusion_layer = layers // 2

    # 1. A cross-encoder lets every token read every other one, in every layer.
    model = load_masked(source, "full", max_length=None)
    print(f"{'full':<10} nDCG@10 {experiment.evaluator.measure(model)[0].ndcg_at_10:.4f}")

    # 2. Most of that can go. Mask0: nobody reads [CLS], separators read themselves. Mask1: [CLS] does not read the
    #    document. Mask2: the document does not read the query. Mask3: below the fusion layer, the query not the document.
    for step in ("mask0", "mask1", "mask2", f"mask3-l{fusion_layer}"):
        model.set_masking(step)
        print(f"{step:<10} nDCG@10 {experiment.evaluator.measure(model)[0].ndcg_at_10:.4f}")

    # 3. What lost quality learns to do without the interactions, when it is trained under its mask. A few steps here;
    #    the paper makes 125,000. Positions of the document start at 0, so that they say nothing of the query.
    retraining = Retraining(steps=4, seconds=None, learning_rate=2e-5, batch_size=4, negatives=3, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        masked = load_masked(source, f"mask3-l{fusion_layer}", max_length=None, restart_positions=True)
        retraining.train(masked, experiment, Path(folder))

        # 4. A document no longer depends on the query: its states can be computed beforehand. As MICE, without loss:
        #    one state per interaction layer, one softmax over the tokens of query and document.
        lengths = choose_lengths(masked)
        evaluator = cut_to_fit(experiment.evaluator, masked, *lengths)
        expected = evaluator.rerank(masked)
        kinds = {"document_states": "per_layer", "interaction_attention": "joint"}
        mice = convert_masked(folder, fusion_layer, masked, kinds, lengths)
        print(f"\nlossless   largest difference of a score {largest_difference(expected, evaluator.rerank(mice)):.1e}")

        # 5. Two more steps make it small and fast: the document's states are frozen at the fusion layer, so that one
        #    tensor serves all layers, and query and document get a softmax each. Training brings back what they cost.
        mice, report = convert(folder, fusion_layer, layers - fusion_layer)
        print(f"MICE       {report}")
        print(f"           nDCG@10 {evaluator.measure(mice)[0].ndcg_at_10:.4f}")
        retraining.train(mice, experiment, Path(folder) / "mice")
        print(f"trained    nDCG@10 {evaluator.measure(mice)[0].ndcg_at_10:.4f}, after {retraining.steps} steps")

    # 6. Encoded once, a document costs a query nothing but the interaction layers.
    query = next(iter(evaluator.collection.queries.values()))
    documents = list(evaluator.collection.corpus.values())[:5]
    states = mice.encode_documents(documents)
    print(f"\n{query}")
    for entry in mice.rank(query, states, top_k=3):
        print(f"  {entry['score']:.2f}  {documents[entry['corpus_id']][:80]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
