#!/usr/bin/env bash
# Training rows with one negative, then rows with two: how each way into datasets takes a key that the first row
# lacks.
#
# datasets 5.2.0.
# Guess: every way takes the union of the keys, with None where a row lacks one, or raises.
# Seen: three ways drop the later negatives without a word; the JSON reader takes the union while the rows lie in one
# block and raises when the key first comes in a later one.
#     from_list, from_generator, map: the second negative is gone; load_dataset("json"): kept, or CastError in a later
#     block
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import json
import os

os.environ["HF_DATASETS_CACHE"] = "cache"
import datasets

datasets.disable_progress_bars()
one = {"query": "a", "negative_1": "x"}
two = {"query": "b", "negative_1": "y", "negative_2": "z"}


def generate():
    yield one
    yield two


def read(rows, name, **settings):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return datasets.load_dataset("json", data_files=name, split="train", **settings)


def mine(row):
    return row | ({"negative_2": "z"} if row["query"] == "b" else {})


queries = datasets.Dataset.from_list([one, {"query": "b", "negative_1": "y"}])
ways = {
    "from_list": datasets.Dataset.from_list([one, two]),
    "from_generator": datasets.Dataset.from_generator(generate),
    "map": queries.map(mine),
    "json": read([one, two], "short.jsonl"),
}
for name, rows in ways.items():
    print(f"{name:15}", rows.column_names, rows[1])
for name in ("from_list", "from_generator", "map"):
    assert ways[name].column_names == ["query", "negative_1"], name
assert ways["json"][1] == two and ways["json"][0]["negative_2"] is None

try:
    read([one] * 3000 + [two], "long.jsonl", chunksize=1000)
    raise SystemExit("a later block may bring a key")
except datasets.exceptions.DatasetGenerationError as error:
    print("json, later block", type(error.__cause__).__name__)
    assert type(error.__cause__).__name__ == "CastError"
PYTHON
