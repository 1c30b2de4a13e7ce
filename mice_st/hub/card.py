"""The card of a model: ``README.md`` from one template, its files, and ``card.yaml``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined
from safetensors import safe_open
from transformers import AutoConfig

from mice_st.hub.card_facts import CardFacts, read_card_facts
from mice_st.hub.card_results import SHOWN_DIGITS, arrange_results, read_evaluations
from mice_st.hub.files import CARD_FILE, RECIPE_FILE
from mice_st.hub.record import Record
from mice_st.model_folder import read_stages
from mice_st.modeling.configuration_mice import MiceConfig

TEMPLATE = "model_card.md.jinja"
TAGS = ["mice", "reranker", "cross-encoder", "sentence-transformers", "text-ranking"]


@dataclass(frozen=True)
class Card:
    """A rendered card.

    Attributes:
        text: Markdown with its front matter.
        missing: What it leaves out because nobody measured or said it.
        eval_results: Path in the repository -> YAML, for the Hub's own tables of results.
    """

    text: str
    missing: list[str]
    eval_results: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write the card and its results into a Hub folder."""
        for path, text in {CARD_FILE: self.text, **self.eval_results}.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")


def render_card(folder: Path, repo: str, tag: str, record: Record) -> Card:
    """Render the card of a model.

    Args:
        folder: The model folder, with ``card.yaml`` where there is something to say, and ``training.json`` of how it was made.
        repo: Hub id that the examples load.
        tag: Tag that the examples pin.
        record: Scores of the example; see ``mice_st.hub.record``.

    Returns:
        The card; the Hub's own reader has read its front matter.

    Raises:
        ValueError: If ``card.yaml``, a file of an evaluation or ``training.json`` is not sound; names the field.
    """
    facts = read_card_facts(folder)
    facts.results += read_evaluations(folder, facts.evaluations)
    name = facts.name or repo.split("/")[-1]
    query = record.pairs[0][0]
    example = [
        (document, logit)
        for (asked, document), logit in zip(record.pairs, record.logits, strict=True)
        if asked == query
    ]
    config: MiceConfig = AutoConfig.from_pretrained(str(folder))
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        files("mice_st.hub").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )
    text = template.render(
        front_matter=_front_matter(facts, name).to_yaml(),
        name=name,
        repo=repo,
        tag=tag,
        facts=facts,
        config=config,
        parameters=_count_parameters(folder),
        tables=arrange_results(name, [result for result in facts.results if result.value is not None]),
        speed=[speed for speed in facts.speed if speed.milliseconds is not None],
        query=json.dumps(query, ensure_ascii=False),
        documents=[json.dumps(document, ensure_ascii=False) for document, _ in example],
        ranking=sorted(example, key=lambda entry: -entry[1]),
        missing=facts.missing(),
        stages=read_stages(folder),
        recipe_file=RECIPE_FILE if (folder / RECIPE_FILE).is_file() else None,
    )
    ModelCard(text)  # reads the front matter as the Hub does
    return Card(text, facts.missing(), _eval_results(facts))


def _front_matter(facts: CardFacts, name: str) -> ModelCardData:
    """What the Hub reads: empty fields are not written."""
    results = [
        EvalResult(
            task_type="text-ranking",
            task_name="re-ranking",
            dataset_type=result.dataset or result.task,
            dataset_name=result.task,
            dataset_split=result.split if result.dataset else None,
            metric_type=result.metric,
            metric_value=round(result.value, SHOWN_DIGITS),
        )
        for result in facts.results
        if result.value is not None
    ]
    return ModelCardData(
        license=facts.license,
        base_model=facts.base_model or None,
        datasets=facts.datasets or None,
        language=facts.language or None,
        library_name="sentence-transformers",
        pipeline_tag="text-ranking",
        tags=TAGS + facts.tags,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _eval_results(facts: CardFacts) -> dict[str, str]:
    """One file per dataset that is on the Hub."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for result in facts.results:
        if result.dataset is not None and result.value is not None:
            entry = {
                "dataset": {"id": result.dataset, "task_id": result.task_id},
                "value": result.value,
                "notes": f"{result.metric}: {result.command}",
            }
            entries.setdefault(result.dataset, []).append(entry)
    return {
        f".eval_results/{dataset.replace('/', '_')}.yaml": yaml.safe_dump(rows, sort_keys=False)
        for dataset, rows in entries.items()
    }


def _count_parameters(folder: Path) -> int:
    """Parameters of all weight files, read from their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                count = 1
                for size in file.get_slice(name).get_shape():
                    count *= size
                total += count
    return total
