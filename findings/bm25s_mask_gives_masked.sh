#!/usr/bin/env bash
# First-stage search in a part of the corpus: bm25s with a `weight_mask` that admits some documents.
#
# bm25s 0.3.16, numpy 2.4.6.
# Guess: a document that the mask leaves out is never returned; with fewer admitted than k, the answer is shorter or
# says so.
# Seen: the mask multiplies scores, so left-out documents are ordinary ones of score 0, and the *last* of them come
# first: with one document admitted that holds no word of the query, k=1 returns another one, left out, and the
# admitted one comes behind all left-out ones even at k=3. With the variants whose other documents score above 0
# (bm25l, bm25+) the admitted one is first.
#     lucene, document 2 admitted: k=1 [4], k=3 [4 3 2]; bm25l: k=1 [2], k=3 [2 4 3]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet bm25s==0.3.16 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import bm25s
import numpy as np

corpus = ["storm over the harbour", "the harbour at night", "night train", "red kite", "old mill"]
admitted = np.array([0, 0, 1, 0, 0])


def words(texts):
    return bm25s.tokenize(texts, stopwords=None, show_progress=False)


def search(method, k):
    index = bm25s.BM25(method=method)
    index.index(words(corpus), show_progress=False)
    found, scores = index.retrieve(words(["storm harbour"]), k=k, weight_mask=admitted, show_progress=False)
    print(f"{method:10} k={k}", found[0].tolist(), scores[0].round(3).tolist())
    return found[0].tolist()


for method in ("lucene", "robertson", "atire"):
    assert search(method, 1) == [4], "a document that is left out comes first"
    assert search(method, 3) == [4, 3, 2], "the admitted one comes last"
for method in ("bm25l", "bm25+"):
    assert search(method, 1) == [2]
    assert search(method, 3)[0] == 2 and len(search(method, 3)) == 3, "left-out documents fill the rest"
PYTHON
