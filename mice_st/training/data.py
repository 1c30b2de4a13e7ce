"""Training rows: read from JSON Lines or mined from a collection, then laid out as sentence-transformers' losses want.

Every fault names where it is: the file and the line, or the query's id.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mice_st.collection import Collection, read_beir
from mice_st.first_stage import BM25
from mice_st.modeling.st_mice import check_text
from mice_st.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from datasets import Dataset

# Where a row came from; the trainer takes this column out of a batch before the loss sees it.
SOURCE_COLUMN = "source"


@dataclass(frozen=True)
class TrainingRow:
    """One query with one relevant document and some that are not.

    Attributes:
        query: The query.
        positive: A relevant document.
        negatives: Documents that are not relevant, or less so; at least one.
        scores: A teacher's scores of the positive and then of each negative, or None.
        source: Where the row came from, for messages: file and line, or the query's id.
    """

    query: str
    positive: str
    negatives: tuple[str, ...]
    scores: tuple[float, ...] | None
    source: str


def load_rows(recipe: TrainingRecipe) -> list[TrainingRow]:
    """Read what ``recipe.train_data`` names.

    Args:
        recipe: Its fields ``train_data``, ``train_split``, ``limit``, ``negatives``, ``negatives_top_k`` and ``seed``.

    Returns:
        The rows, in the order of the file or of the queries.

    Raises:
        FileNotFoundError: If there is neither such a file nor such a folder.
        ValueError: If a row is faulty; the message gives file, line and field.
    """
    path = Path(recipe.train_data)
    if path.is_dir():
        return mine_rows(read_beir(path, recipe.train_split), recipe)
    if not path.is_file():
        raise FileNotFoundError(f"train_data: {path} is neither a JSON Lines file nor a BEIR folder")
    return read_rows(path, recipe)


def read_rows(path: Path, recipe: TrainingRecipe) -> list[TrainingRow]:
    """Read JSON Lines: ``query``, ``positive``, ``negatives`` and perhaps ``scores`` in each line.

    ``scores`` holds one number for the positive and one for each negative. Of more than ``recipe.negatives``
    negatives, the first are taken. Other fields are passed over.

    Args:
        path: The file. Blank lines count in line numbers but are no rows.
        recipe: Its fields ``limit``, ``negatives`` and ``seed``.

    Returns:
        The rows, in the order of the file.

    Raises:
        ValueError: If a field is missing or of the wrong type, a query is empty, a row has no negatives, the scores
            are not as many as the documents or not finite, or some rows have scores and others have none; the message
            gives file, line and field.
    """
    rows: list[TrainingRow] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _parse_row(line, f"{path.name}, line {number}", recipe.negatives)
                if rows and (row.scores is None) != (rows[0].scores is None):
                    raise ValueError(f"scores: given in one of this row and that of {rows[0].source}, not in both")
            except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors too
                raise ValueError(f"{path}, line {number}: {error}") from error
            rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows to train on")
    return sample(rows, recipe.limit, recipe.seed)


def mine_rows(collection: Collection, recipe: TrainingRecipe) -> list[TrainingRow]:
    """Make one row for each relevant document of each query, with hard negatives from BM25.

    Negatives are drawn, with the seed, from the query's best documents that are not relevant; where BM25 finds too
    few, from the whole corpus. A document with the same text as a relevant one, or as the query, is no negative.

    Args:
        collection: Corpus, queries and judgements; a grade of at least 1 is relevant.
        recipe: Its fields ``limit`` (of queries, here), ``negatives``, ``negatives_top_k`` and ``seed``.

    Returns:
        The rows, in the order of the queries.

    Raises:
        ImportError: If bm25s is not installed.
        ValueError: If a query is empty, has no relevant document or leaves no document to be a negative; the message
            gives its id.
    """
    queries = dict(sample(list(collection.queries.items()), recipe.limit, recipe.seed))
    if not queries:
        raise ValueError(f"{collection.name}: no queries to train on")
    relevant = {
        query_id: [item for item, grade in collection.qrels.get(query_id, {}).items() if grade >= 1]
        for query_id in queries
    }
    for query_id, query in queries.items():
        where = f"{collection.name}, query {query_id!r}"
        _check_query(query, where)
        if not relevant[query_id]:
            raise ValueError(f"{where}: no relevant document")
    # As many more as there are relevant ones, so that top_k are left without them.
    most = max(map(len, relevant.values()))
    run = BM25(collection.corpus).search(queries, recipe.negatives_top_k + most)
    document_ids = sorted(collection.corpus)
    rows = []
    for query_id, query in tqdm(queries.items(), "Negatives", unit="query", delay=2, leave=False):
        positives = [collection.corpus[item] for item in relevant[query_id]]
        taken = {query, *positives}
        found = [item for item in run[query_id] if collection.corpus[item] not in taken][: recipe.negatives_top_k]
        # A generator of the query's own: the negatives of one query do not hang on the other queries.
        generator = random.Random(f"{recipe.seed}/{query_id}")
        for positive in positives:
            drawn = generator.sample(found, min(recipe.negatives, len(found)))
            negatives = [collection.corpus[name] for name in drawn]
            negatives += _draw_others(collection.corpus, document_ids, taken, negatives, recipe.negatives, generator)
            source = f"{collection.name}, query {query_id!r}"
            if not negatives:
                raise ValueError(f"{source}: no document of the corpus is left to be a negative")
            for text in (positive, *negatives):
                check_text(text, f"{source}: document {text[:40]!r}")
            rows.append(TrainingRow(query, positive, tuple(negatives), None, source))
    return rows


def rows_to_dataset(rows: Sequence[TrainingRow], loss: str, label_scale: float) -> Dataset:
    """Lay rows out as sentence-transformers' losses want them.

    ``ListNetLoss`` turns the labels into a distribution by a softmax: of labels 1 and 0, with seven negatives, a
    positive would get .28 and each negative .10, and the model would be taught to tell them hardly apart. Scaled by 10
    the positive gets .9997. A teacher's scores are a distribution already and stay as they are. ``LambdaLoss`` counts
    a gain of ``2 ** label - 1``, so its labels are 1 and 0.

    Args:
        rows: The rows.
        loss: ``"margin_mse"``, ``"list_net"`` or ``"lambda"``.
        label_scale: Label of a positive for ``"list_net"`` without teacher scores.

    Returns:
        Columns ``query``, ``documents``, ``labels`` for the listwise losses; ``query``, ``positive``, ``negative_1``
        to ``negative_n``, ``label`` (the teacher's scores) for MarginMSE; ``source`` in both.

    Raises:
        ImportError: If datasets is not installed; the message names the extra.
        ValueError: If MarginMSE meets a row without scores, or with another number of negatives; names the row.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError('training needs datasets: pip install "mice-st[train]"') from error
    if loss == "margin_mse":
        count = len(rows[0].negatives)
        for row in rows:
            if row.scores is None:
                raise ValueError(f"{row.source}: scores: loss margin_mse needs a teacher's scores")
            if len(row.negatives) != count:
                raise ValueError(
                    f"{row.source}: negatives: {len(row.negatives)}, the first row has {count}; loss margin_mse needs "
                    f"as many in every row (--negatives takes only the first of them)"
                )
        return Dataset.from_dict(
            {
                "query": [row.query for row in rows],
                "positive": [row.positive for row in rows],
                **{f"negative_{place + 1}": [row.negatives[place] for row in rows] for place in range(count)},
                "label": [row.scores for row in rows],
                SOURCE_COLUMN: [row.source for row in rows],
            }
        )
    positive = label_scale if loss == "list_net" else 1.0
    labels = [
        row.scores if row.scores is not None and loss == "list_net" else (positive, *[0.0] * len(row.negatives))
        for row in rows
    ]
    return Dataset.from_dict(
        {
            "query": [row.query for row in rows],
            "documents": [[row.positive, *row.negatives] for row in rows],
            "labels": labels,
            SOURCE_COLUMN: [row.source for row in rows],
        }
    )


def fingerprint(rows: Sequence[TrainingRow]) -> str:
    """SHA-256 of the rows: a run is resumed on the data that it began with."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.query, row.positive, row.negatives, row.scores]).encode())
    return digest.hexdigest()


def _parse_row(line: bytes, source: str, most: int) -> TrainingRow:
    """One line; errors do not yet say where."""
    row: Any = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    if missing := [name for name in ("query", "positive", "negatives") if name not in row]:
        raise ValueError(f"the field {missing[0]!r} is missing")
    if "score" in row or "labels" in row:
        raise ValueError('a field "score" or "labels"; a teacher\'s scores are called "scores"')
    _check_query(row["query"], "query")
    check_text(row["positive"], "positive:")
    negatives = row["negatives"]
    if not isinstance(negatives, list) or not negatives:
        raise ValueError("negatives: must be a list of at least one text")
    for place, text in enumerate(negatives):
        check_text(text, f"negatives: text {place}")
    scores = row.get("scores")
    if scores is not None:
        if not isinstance(scores, list) or len(scores) != len(negatives) + 1:
            raise ValueError(
                f"scores: expected {len(negatives) + 1} numbers, one for the positive and one for each negative, got "
                + (str(len(scores)) if isinstance(scores, list) else type(scores).__name__)
            )
        for place, score in enumerate(scores):
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(f"scores: number {place} is {score!r}")
        scores = tuple(float(score) for score in scores[: most + 1])
    return TrainingRow(row["query"], row["positive"], tuple(negatives[:most]), scores, source)


def _check_query(query: Any, name: str) -> None:
    check_text(query, f"{name}:")
    if not query.strip():
        raise ValueError(f"{name}: the text of the query is empty")


def _draw_others(
    corpus: dict[str, str],
    document_ids: list[str],
    taken: set[str],
    negatives: list[str],
    wanted: int,
    generator: random.Random,
) -> list[str]:
    """Texts from anywhere in the corpus, as many as are still wanted."""
    missing = wanted - len(negatives)
    if missing <= 0:
        return []
    taken = {*taken, *negatives}
    # Drawing more than are missing, since some will be taken; a small corpus is drawn whole.
    drawn = generator.sample(document_ids, min(len(document_ids), missing + 2 * len(taken)))
    others = dict.fromkeys(text for item in drawn if (text := corpus[item]) not in taken)
    return list(others)[:missing]


def sample(items: list[Any], count: int | None, seed: int) -> list[Any]:
    """Draw items without changing their order.

    Args:
        items: What to draw from.
        count: How many; None, or more than there are, gives all.
        seed: Of the drawing.

    Returns:
        The drawn items.
    """
    if count is None or count >= len(items):
        return items
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), count))]
