"""A card says what was measured and nothing else, and the Hub's own reader understands it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from mice_st import MiceCrossEncoder
from mice_st.hub.card import Card, render_card
from mice_st.hub.card_facts import read_card_facts
from mice_st.hub.files import copy_hub_files
from mice_st.hub.record import read_record
from mice_st.model_folder import write_provenance

FACTS = """
name: mice-tiny
version: 1.2.0
summary: A model for tests.
license: apache-2.0
base_model: org/encoder
datasets: [org/questions]
language: [en]
tags: [tiny]
results:
  - {task: python-docs, metric: ndcg@10, value: 0.6567, command: mice-st evaluate --suite python-docs,
     compared: {BM25: 0.5395, bi-encoder: null}}
  - {task: NanoBEIR, metric: ndcg@10, command: mice-st evaluate --suite nanobeir}
  - {task: SciFact, metric: ndcg@10, value: 0.7, command: mice-st evaluate --suite paper-ood, dataset: org/scifact}
speed:
  - {system: states stored, documents: 100, milliseconds: 175.49, command: make demo}
  - {system: nothing stored, documents: 100, milliseconds: null, command: make demo}
machine: two cores
picture: speed.png
training_data: Questions.
recipe: mice-st train --model x --train_data y --output z
intended_use: Tests.
limits: [It is tiny.]
"""


def render(folder: Path, facts: str | None) -> Card:
    if facts is not None:
        (folder / "card.yaml").write_text(facts)
    (folder / "speed.png").write_bytes(b"\x89PNG")
    return render_card(folder, "org/mice-tiny", "v1.2.0", read_record(folder))


def test_front_matter_is_what_the_hub_reads(folder: Path) -> None:
    data: Any = ModelCard(render(folder, FACTS).text).data
    assert data.license == "apache-2.0"
    assert data.base_model == ["org/encoder"]
    assert data.datasets == ["org/questions"]
    assert data.language == ["en"]
    assert data.pipeline_tag == "text-ranking"
    assert data.library_name == "sentence-transformers"
    assert {"mice", "tiny"} <= set(data.tags)
    assert data.model_name == "mice-tiny"
    assert [(result.dataset_name, result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("python-docs", "ndcg@10", 0.6567),
        ("SciFact", "ndcg@10", 0.7),
    ]


def test_results_of_a_dataset_on_the_hub_get_a_file_of_their_own(folder: Path) -> None:
    files = render(folder, FACTS).eval_results
    assert list(files) == [".eval_results/org_scifact.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/org_scifact.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("org/scifact", "default", 0.7)
    assert entry.notes == "ndcg@10: mice-st evaluate --suite paper-ood"


def test_a_missing_figure_is_left_out_and_listed(folder: Path) -> None:
    card = render(folder, FACTS)
    missing = ["ndcg@10 of bi-encoder on python-docs", "ndcg@10 on NanoBEIR", "milliseconds of nothing stored"]
    assert card.missing == missing
    assert f"not stated: {', '.join(missing)}." in card.text
    table = "| ndcg@10 | python-docs |\n|---|---|\n| **mice-tiny** | 0.6567 |\n| BM25 | 0.5395 |\n\n"
    assert f"```sh\nmice-st evaluate --suite python-docs\n```\n\n{table}" in card.text
    assert "NanoBEIR |" not in card.text
    assert "| states stored | 100 | 175.5 | `make demo` |" in card.text
    assert "| nothing stored |" not in card.text
    assert "(speed.png)" in card.text


def test_a_model_of_which_nothing_is_said_gets_an_honest_card(folder: Path) -> None:
    card = render(folder, None)
    assert {"license", "results", "speed", "training_data", "intended_use"} <= set(card.missing)
    assert not re.search(r"^## (Results|Speed|Training)", card.text, re.MULTILINE)
    data = ModelCard(card.text).data.to_dict()
    assert not {"license", "base_model", "datasets", "language", "model-index", "model_name"} & data.keys()
    assert not re.search(r"\b(None|nan|null|Undefined)\b", card.text)
    assert card.eval_results == {}


def test_body_states_the_model_and_its_recorded_scores(folder: Path, mice: MiceCrossEncoder) -> None:
    text = render(folder, None).text
    assert f"{mice.mice.num_parameters():,} parameters" in text
    assert "queries up\nto 16 tokens, documents up to 32" in text
    record = read_record(folder)
    best = max(range(3), key=lambda place: record.logits[place])
    shown = text.split("```text\n")[1].splitlines()[0]
    assert shown == f"{record.logits[best]:.2f}  {record.pairs[best][1]}"


def test_every_snippet_pins_weights_and_code(folder: Path) -> None:
    text = render(folder, None).text
    loads = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if '"org/mice-tiny"' in block]
    assert len(loads) == 3
    assert all('revision="v1.2.0"' in block or '"revision": "v1.2.0"' in block for block in loads)
    assert sum("code_revision" in block for block in loads) == 2  # MiceCrossEncoder runs the installed code


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("licence: mit", "unknown fields licence; there are name, version"),
        ("- a", "expected fields, got list"),
        ("a: [", "is not YAML"),
        ("version: 1.0", "version: expected a text, got 1.0; put it in quotes"),
        ("language: {en: 1}", "language: expected a list of texts"),
        ("results: 3", "results: expected a list"),
        ("results: [{task: x, metric: ndcg@10, value: .5}]", "results 0: command is missing"),
        (
            "results: [{task: x, metric: ndcg@10, command: c, value: good}]",
            "results 0: value: expected a finite number",
        ),
        ("results: [{task: x, metric: m, command: c, value: .nan}]", "results 0: value: expected a finite number"),
        ("results: [{task: x, metric: m, command: c, compared: {BM25: .inf}}]", "results 0: BM25: expected a finite"),
        ("results: [{task: x, metric: m, command: c, score: 1}]", "results 0: unknown fields score"),
        ("speed: [{system: x, command: c, milliseconds: 1}]", "speed 0: documents is missing"),
        ("evaluations: [{system: x, command: c}]", "evaluations 0: file is missing"),
        ("evaluations: [{file: 3, system: x, command: c}]", "evaluations 0: file: expected a text, got 3"),
        ("picture: absent.png", "picture: there is no absent.png in the folder"),
    ],
)
def test_facts_that_are_not_sound_are_refused(folder: Path, facts: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        render(folder, facts)


EVALUATION = {
    "sets": [
        {"name": "a", "group": "in", "queries": 2},
        {"name": "b", "group": "in", "queries": 1000},
        {"name": "c", "group": "out", "queries": 7},
    ],
    "systems": [
        {
            "name": name,
            "sets": {key: {"ndcg@10": value, "map": 0.1} for key, value in zip("abc", figures, strict=True)},
            "groups": {"in": {"ndcg@10": sum(figures[:2]) / 2}, "out": {"ndcg@10": figures[2]}},
        }
        for name, figures in {"tiny": (0.5, 0.75, 0.25), "bm25": (0.25, 0.5, 0.125)}.items()
    ],
}


def test_figures_come_from_the_file_of_an_evaluation(folder: Path) -> None:
    (folder / "dev.json").write_text(json.dumps(EVALUATION))
    card = render(folder, "evaluations: [{file: dev.json, system: tiny, command: mice-st evaluate}]")
    assert "results" not in card.missing
    assert card.text.count("mice-st evaluate\n") == 1  # all sets in one table
    rows = card.text.split("mice-st evaluate\n```\n\n")[1].split("\n\n")[0].splitlines()
    assert rows == [
        "| ndcg@10 | a (in, 2 queries) | b (in, 1,000 queries) | mean in (2 sets, 1,002 queries) | c (out, 7 queries) |",
        "|---|---|---|---|---|",
        "| **mice-tiny** | 0.5000 | 0.7500 | 0.6250 | 0.2500 |",
        "| bm25 | 0.2500 | 0.5000 | 0.3750 | 0.1250 |",
    ]
    data: Any = ModelCard(card.text).data
    assert [result.metric_value for result in data.eval_results] == [0.5, 0.75, 0.625, 0.25]


@pytest.mark.parametrize(
    ("facts", "error", "message"),
    [
        ("{file: absent.json, system: tiny, command: c}", FileNotFoundError, "absent.json: evaluations names this"),
        ("{file: dev.json, system: other, command: c}", ValueError, "no system 'other'; there are tiny, bm25"),
        (
            "{file: dev.json, system: tiny, command: c, metric: mrr}",
            ValueError,
            "a (in, 2 queries): there is no mrr of tiny",
        ),
        ("{file: verification.json, system: tiny, command: c}", ValueError, "was not written by mice-st evaluate"),
    ],
)
def test_a_file_of_an_evaluation_that_does_not_fit_is_refused(
    folder: Path, facts: str, error: type[Exception], message: str
) -> None:
    (folder / "dev.json").write_text(json.dumps(EVALUATION))
    with pytest.raises(error, match=re.escape(message)):
        render(folder, f"evaluations: [{facts}]")


def test_the_way_to_the_weights_is_told(folder: Path) -> None:
    (folder / "recipe.toml").write_text('output = "runs"\n')
    backbone = {"command": "convert", "options": {}, "model": {"source": "backbone", "weights": {"m": "a" * 64}}}
    write_provenance(
        folder,
        "train",
        {"loss": "list_net", "seed": 3},
        model={"source": "start", "weights": {"model.safetensors": "b" * 64}, "made_by": backbone},
        data=[{"source": "rows.jsonl", "rows": 4321, "sha256": "c" * 64}],
        steps={"made": 1200, "rows": 19200, "kept": 1000},
    )
    text = render(folder, None).text
    first, second, data = (line for line in text.splitlines() if "SHA-256 " in line)
    assert first == f"1. `mice-st convert` from backbone (weights: SHA-256 {'a' * 64})"
    assert second.startswith(
        f"2. `mice-st train` from start (weights: SHA-256 {'b' * 64}): 1,200 steps over 19,200 rows"
    )
    assert second.endswith("loss list_net, seed 3; the weights of step 1,000 were kept")
    assert data == f"   - rows.jsonl: 4,321 rows, SHA-256 {'c' * 64}"
    assert "The recipe is `recipe.toml`" in text
    copy_hub_files(folder, folder.parent / "built")
    assert {"training.json", "recipe.toml"} <= {path.name for path in (folder.parent / "built").iterdir()}


def test_nothing_is_filled_in(folder: Path) -> None:
    (folder / "card.yaml").write_text("results: [{task: x, metric: m, command: c}]\n")
    (result,) = read_card_facts(folder).results
    assert result.value is None
