#!/usr/bin/env bash
# Threads of a search beside a model: faiss.omp_set_num_threads, with torch in the same process.
#
# faiss-cpu 1.15.1, torch 2.13.0 (CPU), numpy 2.4.6.
# Guess: each library has its own number of threads: setting faiss's leaves torch's as it is, whichever is imported first.
# Seen: it depends on the order of the imports. Imported after torch, faiss takes torch's OpenMP library: setting one sets
# the other, both ways. Imported before torch, each keeps its own. So a search that limits itself to one thread slows the
# model down in one program, and not in another that imports the same two in alphabetical order.
#     two cores, torch first: faiss set to 7, torch has 7; torch set to 4, faiss has 4
#     faiss first: faiss set to 7, torch has 2; torch set to 4, faiss has 7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet faiss-cpu==1.15.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > order.py <<'PYTHON'
import importlib
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
import faiss
import torch

before = torch.get_num_threads()
faiss.omp_set_num_threads(before + 5)
torch_has = torch.get_num_threads()
print(f"faiss set to {before + 5}: torch has {torch_has}")
torch.set_num_threads(before + 2)
faiss_has = faiss.omp_get_max_threads()
print(f"torch set to {before + 2}: faiss has {faiss_has}")
shared, apart = (before + 5, before + 2), (before, before + 5)
assert (torch_has, faiss_has) == (shared if sys.argv[1] == "torch" else apart)
PYTHON
echo "torch first"
"$folder/venv/bin/python" -W ignore order.py torch faiss
echo "faiss first"
"$folder/venv/bin/python" -W ignore order.py faiss torch
