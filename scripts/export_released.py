"""Write the released folders anew with today's modelling code: same weights, same scores.

    python scripts/export_released.py [--baseline COMMIT] [--write]

Each folder of ``hub_cards/`` as it stood at a commit is loaded and saved by the installed code. Both copies then score the same pairs
of the Python documentation in fresh processes that cannot import mice_st, each with the code in its own folder: through
AutoModelForSequenceClassification and through sentence-transformers' CrossEncoder. With ``--write`` the new code, configs, record and
card replace those in ``hub_cards/``; the weights' file is left as it is.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from itertools import islice
from pathlib import Path

from mice_st import MiceCrossEncoder
from mice_st.data.python_docs import load_python_docs
from mice_st.files import read_json, sha256_of
from mice_st.hub.card import render_card
from mice_st.hub.card_facts import read_card_facts
from mice_st.hub.files import VERIFICATION_FILE, copy_hub_files
from mice_st.hub.push import FIRST_VERSION
from mice_st.hub.verification import write_record
from mice_st.loading import RELEASED_MODELS

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "50188ac"  # the last commit whose folders hold nineteen files of code
WEIGHTS = "model.safetensors"

SCORE = """
import json, sys
sys.modules["mice_st"] = None
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

torch.set_num_threads(1)
folder, pairs = sys.argv[1], json.loads(sys.stdin.read())
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
auto = []
with torch.no_grad():
    for query, document in pairs:
        encoding = tokenizer(query, document, truncation="only_second", max_length=256, return_tensors="pt")
        auto.append(model(**encoding).logits.item())
stock = CrossEncoder(folder, trust_remote_code=True, device="cpu").predict([tuple(pair) for pair in pairs]).tolist()
print(json.dumps({"auto": auto, "stock": stock}))
"""


def make_pairs() -> list[tuple[str, str]]:
    """Queries of the Python documentation, each with its own sections and some others."""
    collection = load_python_docs("test")
    texts = list(collection.corpus.values())
    pairs = []
    for place, (query, judged) in enumerate(islice(collection.qrels.items(), 12)):
        chosen = [collection.corpus[item] for item in list(judged)[:2]]
        chosen += [texts[(97 * place + 13 * step) % len(texts)] for step in range(6)]
        pairs += [(collection.queries[query], text[:1200]) for text in chosen if text.strip()]
    return pairs


def scores_of(folder: Path, pairs: list[tuple[str, str]], cache: Path) -> dict[str, list[float]]:
    """Scores by the code in a folder, in a fresh process."""
    ran = subprocess.run(
        [sys.executable, "-c", SCORE, str(folder)],
        input=json.dumps(pairs),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{folder}: does not score: {ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def replace(released: Path, saved: Path) -> None:
    """Put code, configs, record and card of ``saved`` in place of those in a released folder."""
    for path in released.glob("*.py"):
        path.unlink()
    for path in saved.iterdir():
        if path.suffix == ".py" or path.name in (
            "config.json",
            "config_sentence_transformers.json",
            "tokenizer_config.json",
        ):
            shutil.copyfile(path, released / path.name)
    (released / VERIFICATION_FILE).unlink()
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary)
        copy_hub_files(released, built)
        record = write_record(built)
        shutil.copyfile(built / VERIFICATION_FILE, released / VERIFICATION_FILE)
    tag = f"v{read_card_facts(released).version or FIRST_VERSION}"
    card = render_card(released, f"mice-st/{released.name}", tag, record)
    card.write(released)


def main() -> None:
    """Export every released model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", default=BASELINE, help="commit whose folders are exported")
    parser.add_argument("--write", action="store_true", help="replace the folders in hub_cards")
    options = parser.parse_args()
    archive = subprocess.run(
        ["git", "archive", options.baseline, "hub_cards"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    pairs = make_pairs()
    print(f"{len(pairs)} pairs of the Python documentation")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        with tarfile.open(fileobj=io.BytesIO(archive)) as file:
            file.extractall(work, filter="data")
        for name in RELEASED_MODELS:
            old, new = work / "hub_cards" / name, work / "new" / name
            MiceCrossEncoder(str(old), device="cpu").save(str(new))
            if sha256_of(old / WEIGHTS) != sha256_of(ROOT / "hub_cards" / name / WEIGHTS):
                raise SystemExit(f"{name}: the weights have changed since {options.baseline}")
            before, after = (
                scores_of(folder, pairs, work / f"{key}-{name}") for key, folder in (("old", old), ("new", new))
            )
            largest = {way: max(abs(a - b) for a, b in zip(before[way], after[way], strict=True)) for way in before}
            size = max(map(abs, before["auto"]))
            code = len(list(old.glob("*.py"))), len(list(new.glob("*.py")))
            print(
                f"{name}: code files {code[0]} -> {code[1]}; largest difference of a score {largest['auto']:.1e} by pair "
                f"encodings, {largest['stock']:.1e} by CrossEncoder (scores up to {size:.1f})"
            )
            if options.write:
                replace(ROOT / "hub_cards" / name, new)
                kept = read_json(ROOT / "hub_cards" / name / "config.json")
                print(f"{name}: written; score_scale {kept['score_scale']}")


if __name__ == "__main__":
    main()
