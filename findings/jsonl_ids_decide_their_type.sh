#!/usr/bin/env bash
# A corpus.jsonl whose ids are strings, read by datasets. What the ids look like, and one number among them, decides
# what comes out.
#
# datasets 5.2.0, `load_dataset("json")`.
# Guess: a JSON string stays a string; a column with both strings and numbers raises, or becomes strings;
# Value("string") keeps the text.
# Seen: ids that look like dates become timestamps, with time zones resolved, so that two ids can become one;
# `features` with Value("string") then hold another text than the file. A number among the ids makes the column Json,
# this year's type, which decodes the *text* of each string: "007" is 7, "1e5" is 100000.0, "null" is None, "d1"
# stays. Asked for Value("string"), it is "d1" that changes, into one with quotes, and "007" that stays. Nothing is
# said in any of the cases.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import datetime
import json
import os

os.environ["HF_DATASETS_CACHE"] = "cache"
import datasets

datasets.disable_progress_bars()
texts = datasets.Features({"_id": datasets.Value("string")})


def read(ids, **settings):
    name = f"corpus-{abs(hash(str(ids)))}.jsonl"
    with open(name, "w") as file:
        file.writelines(json.dumps({"_id": one}) + "\n" for one in ids)
    rows = datasets.load_dataset("json", data_files=name, split="train", **settings)
    print(ids, settings and "as strings" or "", "->", type(rows.features["_id"]).__name__, rows["_id"][:])
    return rows["_id"][:]


days = ["2020-01-01", "2020-01-02"]
assert read(days) == [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 2)]
assert read(days, features=texts) == ["2020-01-01 00:00:00", "2020-01-02 00:00:00"]
assert len(set(read(["2020-01-01T10:00:00+02:00", "2020-01-01T08:00:00Z"]))) == 1
assert read([*days, "d1"]) == [*days, "d1"]

strings = ["007", "1e5", "null", "true", "d1"]
assert read(strings) == strings
assert read([*strings, 2]) == [7, 100000.0, None, True, "d1", 2]
assert read([*strings, 2], features=texts) == ["007", "1e5", "null", "true", '"d1"', "2"]
PYTHON
