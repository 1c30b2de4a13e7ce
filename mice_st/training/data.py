"""Training data: sources by name, hard negatives of collections, and columns for sentence-transformers' losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mice_st.data.sources import ARCHIVE, is_collection, load_collection
from mice_st.files import sha256_of
from mice_st.model_folder import shorten_paths
from mice_st.training.losses import LAYOUTS, NEED_SCORES
from mice_st.training.mining import MiningChoices, mine_rows, sample
from mice_st.training.parquet_rows import ParquetRows
from mice_st.training.public_sets import is_public_set, read_public_set
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.row_files import open_rows
from mice_st.training.row_format import TrainingRow
from mice_st.training.rows import ChosenRows, MemoryRows, RowFile, Rows

if TYPE_CHECKING:
    from datasets import Dataset

# Where a row came from; the trainer takes this column out of a batch before the loss sees it.
SOURCE_COLUMN = "source"


def load_rows(recipe: TrainingRecipe) -> Rows:
    """Read the sources of ``recipe.train_data``: one, or several mixed.

    A source is a file of rows (JSON Lines, CSV, TSV or Parquet, see ``open_rows``), a collection (``FOLDER:SPLIT``, see ``load_collection``) whose hard
    negatives are mined, or one of ``public_sets.READERS`` by its name on the Hub.

    Args:
        recipe: Its fields ``train_data``, ``train_weights``, ``train_split`` and ``limit``, and those of
            ``MiningChoices``.

    Returns:
        The rows, source after source, each in the order of its file or of its queries.

    Raises:
        FileNotFoundError: If there is neither such a file nor such a collection.
        ValueError: If a row is faulty; the message gives file, line and field.
    """
    parts = [_load_source(source, recipe.train_split, recipe) for source in recipe.train_data]
    weights = recipe.train_weights or [1.0] * len(parts)
    chosen = [_weighted(len(part), weight, recipe.seed) for part, weight in zip(parts, weights, strict=True)]
    total = sum(map(len, chosen))
    if recipe.limit is not None and recipe.limit < total:
        places = np.array(sample(range(total), recipe.limit, recipe.seed))
        ends = np.cumsum([len(part) for part in chosen])
        starts = ends - [len(part) for part in chosen]
        chosen = [
            part[places[(places >= start) & (places < end)] - start]
            for part, start, end in zip(chosen, starts, ends, strict=True)
        ]
    elif len(parts) == 1 and weights[0] == 1:
        return parts[0]
    kept = [place for place, part in enumerate(chosen) if len(part)]
    names = [recipe.train_data[place] for place in kept]
    return ChosenRows([parts[place] for place in kept], [chosen[place] for place in kept], names)


def describe_rows(rows: Rows, names: Sequence[str]) -> list[dict[str, Any]]:
    """The sources of a model's training rows, for its ``training.json``.

    Args:
        rows: As ``load_rows`` returns them.
        names: What to call the sources, where there is only one of them.

    Returns:
        For each source its name, ``rows`` (those that are used, repeated ones again) and ``sha256``: of the file, or of
        the rows where they come from no file.
    """
    parts = list(rows.parts()) if isinstance(rows, ChosenRows) else [(names[0], rows, len(rows))]
    return [
        {
            "source": shorten_paths(name),
            "rows": count,
            "sha256": sha256_of(Path(name)) if isinstance(part, RowFile | ParquetRows) else part.sha256,
        }
        for name, part, count in parts
    ]


def _load_source(source: str, split: str, choices: MiningChoices) -> Rows:
    path = Path(source)
    if path.is_file() and not source.endswith(ARCHIVE):
        return open_rows(path, choices.negatives)
    if is_public_set(source):
        return read_public_set(source)
    if is_collection(source):
        return MemoryRows(mine_rows(load_collection(source, split), choices))
    raise FileNotFoundError(
        f"train_data: {source} is neither a file of rows (JSON Lines, CSV, TSV, Parquet) nor a BEIR folder"
    )


def _weighted(rows: int, weight: float, seed: int) -> np.ndarray:
    """Places of a source's rows in one pass: all of them ``weight`` times, its fraction drawn with the seed."""
    whole, part = int(weight), weight - int(weight)
    places = [np.arange(rows)] * whole
    if count := round(part * rows):
        places.append(np.array(sample(range(rows), count, seed)))
    return np.concatenate(places) if places else np.arange(0)


def rows_to_dataset(rows: Sequence[TrainingRow], loss: str, label_scale: float) -> Dataset:
    """Lay rows out as sentence-transformers' losses want them, each when it is asked for.

    ``ListNetLoss`` turns the labels into a distribution by a softmax: of labels 1 and 0, with seven negatives, a
    positive would get .28 and each negative .10, and the model would be taught to tell them hardly apart. Scaled by 10
    the positive gets .9997. A teacher's scores are a distribution already and stay as they are. ``LambdaLoss`` counts
    a gain of ``2 ** label - 1``, so its labels are 1 and 0.

    Args:
        rows: The rows.
        loss: Name of the loss, see ``losses.LAYOUTS``.
        label_scale: Label of a positive for ``"list_net"`` without teacher scores.

    Returns:
        Columns ``query``, ``documents``, ``labels`` for the listwise and pointwise losses; ``query``, ``positive``,
        ``negative_1`` to ``negative_n`` and perhaps ``label`` (the teacher's scores) for MarginMSE and MNRL; ``source``
        in all.

    Raises:
        ImportError: If datasets is not installed; the message names the extra.
        ValueError: If the loss needs scores and there are none, or as many negatives in each row and there are not;
            names the row.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError('training needs datasets: pip install "mice-st[train]"') from error
    rows = rows if isinstance(rows, Rows) else MemoryRows(rows)
    if loss in NEED_SCORES and not rows.has_scores:
        raise ValueError(f"{rows[0].source}: scores: loss {loss} needs a teacher's scores")
    if LAYOUTS[loss] == "columns" and rows.uneven is not None:
        raise ValueError(
            f"{rows.uneven}; loss {loss} needs as many in every row (--negatives takes only the first of them)"
        )

    def lay_out(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        items = [_lay_out(rows[place], loss, label_scale) for place in batch["row"]]
        return {name: [item[name] for item in items] for name in items[0]}

    # The rows themselves stay where they are: what the trainer shuffles is their numbers.
    return Dataset.from_dict({"row": np.arange(len(rows))}).with_transform(lay_out)


def _lay_out(row: TrainingRow, loss: str, label_scale: float) -> dict[str, Any]:
    """One row as the columns of a loss."""
    if LAYOUTS[loss] == "columns":
        negatives = {f"negative_{place}": text for place, text in enumerate(row.negatives, start=1)}
        label = {"label": list(row.scores)} if loss in NEED_SCORES and row.scores is not None else {}
        return {"query": row.query, "positive": row.positive, **negatives, **label, SOURCE_COLUMN: row.source}
    if row.scores is not None and loss != "lambda":
        labels = list(row.scores)
        if loss == "bce":  # a teacher's logits as probabilities
            labels = [1 / (1 + math.exp(-max(-30.0, min(30.0, score)))) for score in labels]
    else:
        labels = [label_scale if loss == "list_net" else 1.0, *[0.0] * len(row.negatives)]
    return {"query": row.query, "documents": list(row.documents), "labels": labels, SOURCE_COLUMN: row.source}
