"""``card.yaml``: what a card says of a model beyond what its files say themselves.

A figure that was not measured is left empty: the card leaves it out and says so. Nothing is ever filled in.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from mice_st.hub.files import CARD_FACTS_FILE


@dataclass
class Result:
    """One measured quality.

    Attributes:
        task: Name of the suite or collection.
        metric: For example ``ndcg@10``.
        command: What measures it again.
        value: The figure, between 0 and 1; None where it was not measured.
        compared: Other systems' figures in the same run, by name.
        dataset: Hub id of the data; with it the result also goes to ``.eval_results``.
        task_id: Which task of that dataset, as its benchmark names it.
        split: Split of that dataset.
    """

    task: str
    metric: str
    command: str
    value: float | None = None
    compared: dict[str, float | None] = field(default_factory=dict)
    dataset: str | None = None
    task_id: str = "default"
    split: str = "test"


@dataclass
class Evaluation:
    """A file of ``mice-st evaluate`` whose figures become results.

    Attributes:
        file: JSON file in the model folder; it is not published.
        system: Which of its systems this model is.
        command: What measures it again.
        metric: Which of its metrics.
    """

    file: str
    system: str
    command: str
    metric: str = "ndcg@10"


@dataclass
class Speed:
    """One measured time.

    Attributes:
        system: What was timed.
        documents: Documents scored for one query.
        command: What measures it again.
        milliseconds: Median for one query; None where it was not measured.
    """

    system: str
    documents: int
    command: str
    milliseconds: float | None = None


@dataclass
class CardFacts:
    """The fields of ``card.yaml``; each may be left out.

    Attributes:
        name: Name of the model; by default the repository's.
        version: Becomes the tag ``v<version>``.
        summary: One or two sentences.
        license: Identifier as the Hub knows it, for example ``apache-2.0``.
        base_model: Hub ids of what it was made from.
        datasets: Hub ids of the training data.
        language: ISO 639 codes.
        tags: Further tags.
        results: Measured quality.
        evaluations: Files that hold more of it.
        speed: Measured times.
        machine: What the times were measured on.
        picture: A picture in the folder, shown under the times.
        training_data: What it was trained on, in words.
        recipe: Command or file that trains it again.
        intended_use: What it is for.
        limits: What it cannot do, and what may go wrong.
    """

    name: str | None = None
    version: str | None = None
    summary: str | None = None
    license: str | None = None
    base_model: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    language: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    speed: list[Speed] = field(default_factory=list)
    machine: str | None = None
    picture: str | None = None
    training_data: str | None = None
    recipe: str | None = None
    intended_use: str | None = None
    limits: list[str] = field(default_factory=list)

    def missing(self) -> list[str]:
        """What the card has to leave out, by field."""
        empty = [item.name for item in fields(self) if item.name not in _OPTIONAL and not getattr(self, item.name)]
        for result in self.results:
            if result.value is None:
                empty.append(f"{result.metric} on {result.task}")
            empty += [
                f"{result.metric} of {system} on {result.task}"
                for system, value in result.compared.items()
                if value is None
            ]
        empty += [f"milliseconds of {speed.system}" for speed in self.speed if speed.milliseconds is None]
        return empty


# Named by the repository, implied by others, or a matter of taste: nobody misses these.
_OPTIONAL = ("name", "version", "tags", "picture", "evaluations")
_LISTS = ("base_model", "datasets", "language", "tags", "limits")
ROWS = {"results": Result, "evaluations": Evaluation, "speed": Speed}


def read_card_facts(folder: Path) -> CardFacts:
    """Read ``card.yaml``; without one, every field is missing.

    Raises:
        ValueError: If a field is unknown or of the wrong kind, a figure is no finite number, or the picture is not in
            the folder; names the field.
    """
    path = folder / CARD_FACTS_FILE
    if not path.is_file():
        return CardFacts()
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {error}") from error
    if not isinstance(written, dict):
        raise ValueError(f"{path}: expected fields, got {type(written).__name__}")
    facts: dict[str, Any] = {name: value for name, value in written.items() if value is not None}
    _check_names(f"{path}", facts, CardFacts)
    for name, value in facts.items():
        if name in _LISTS:
            facts[name] = [value] if isinstance(value, str) else value
            if not isinstance(facts[name], list) or not all(isinstance(item, str) for item in facts[name]):
                raise ValueError(f"{path}: {name}: expected a list of texts, got {value!r}")
        elif name not in ROWS:
            if not isinstance(value, str):
                raise ValueError(f"{path}: {name}: expected a text, got {value!r}; put it in quotes")
            facts[name] = value.strip()
    for name, kind in ROWS.items():
        rows = facts.get(name, [])
        if not isinstance(rows, list):
            raise ValueError(f"{path}: {name}: expected a list, got {rows!r}")
        facts[name] = [_read_row(f"{path}: {name} {place}", row, kind) for place, row in enumerate(rows)]
    if "picture" in facts and not (folder / facts["picture"]).is_file():
        raise ValueError(f"{path}: picture: there is no {facts['picture']} in the folder")
    return CardFacts(**facts)


def _read_row(where: str, row: Any, kind: type) -> Any:
    """One entry of ``results``, ``evaluations`` or ``speed``."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected fields, got {row!r}")
    _check_names(where, row, kind)
    for item in fields(kind):
        value = row.get(item.name)
        if item.default is MISSING and item.default_factory is MISSING and value in (None, ""):
            raise ValueError(f"{where}: {item.name} is missing")
        if str(item.type).startswith("str") and not isinstance(value, str | None):
            raise ValueError(f"{where}: {item.name}: expected a text, got {value!r}; put it in quotes")
    figures = {name: row[name] for name in ("value", "milliseconds", "documents") if name in row}
    compared = row.get("compared") or {}
    if not isinstance(compared, dict):
        raise ValueError(f"{where}: compared: expected system: figure, got {compared!r}")
    for name, figure in (figures | compared).items():
        is_number = isinstance(figure, int | float) and not isinstance(figure, bool)
        if figure is not None and not (is_number and math.isfinite(figure)):
            raise ValueError(f"{where}: {name}: expected a finite number or nothing, got {figure!r}")
    return kind(**{name: value for name, value in row.items() if value is not None})


def _check_names(where: str, written: dict[str, Any], kind: type) -> None:
    known = [item.name for item in fields(kind)]
    unknown = [str(name) for name in written if name not in known]
    if unknown:
        raise ValueError(f"{where}: unknown fields {', '.join(unknown)}; there are {', '.join(known)}")
