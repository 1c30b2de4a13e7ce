"""Public training sets by their names on the Hub, read where they lie: memory-mapped, of any size.

A local copy of the repository serves as well: any folder whose path ends in the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mice_st.data.sources import split_source
from mice_st.training.row_format import TrainingRow
from mice_st.training.rows import Rows

if TYPE_CHECKING:
    from datasets import Dataset

MARGINS = "bert-ensemble-margin-mse"
HASHED_ROWS = 1000  # of a set too large to be hashed whole


class TextsById:
    """Id -> text over a dataset on disk; in memory there are the ids alone.

    Args:
        data: The dataset.
        id_column: Its column of ids.
        text_column: Its column of texts.

    Raises:
        ValueError: If an id is there twice; names it.
    """

    def __init__(self, data: Dataset, id_column: str, text_column: str) -> None:
        self._data = data
        self._text_column = text_column
        ids = np.array([str(item) for item in data[id_column][:]])
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]
        if bool((twice := self._ids[1:] == self._ids[:-1]).any()):
            raise ValueError(f"{text_column}: the id {str(self._ids[1:][twice][0])!r} is there twice")

    def __getitem__(self, item_id: Any) -> str:
        place = int(np.searchsorted(self._ids, str(item_id)))
        if place == len(self._ids) or self._ids[place] != str(item_id):
            raise ValueError(f"there is no {self._text_column} with the id {item_id!r}")
        return self._data[int(self._order[place])][self._text_column]


class DatasetRows(Rows):
    """The rows of a dataset on disk.

    Args:
        name: What messages call it.
        data: The dataset.
        score_column: Its teacher's scores; checked in the beginning.
        to_row: Makes a row of one item and its source.

    Raises:
        ValueError: If there are no rows, or a score is missing or not finite; names the row.
    """

    has_scores = True
    uneven = None

    def __init__(
        self, name: str, data: Dataset, score_column: str, to_row: Callable[[dict[str, Any], str], TrainingRow]
    ) -> None:
        import pyarrow.compute

        if not len(data):
            raise ValueError(f"{name}: no rows to train on")
        self._name = name
        self._data = data
        self._to_row = to_row
        start = 0
        for chunk in data.data.column(score_column).chunks:
            finite = pyarrow.compute.fill_null(pyarrow.compute.is_finite(chunk), False).to_numpy(zero_copy_only=False)
            if not finite.all():
                place = int(np.flatnonzero(~finite)[0])
                raise ValueError(f"{name}, row {start + place}: {score_column} is {chunk[place].as_py()}")
            start += len(chunk)
        digest = hashlib.sha256(f"{name}/{len(data)}".encode())
        for place in np.linspace(0, len(data) - 1, min(HASHED_ROWS, len(data)), dtype=np.int64).tolist():
            digest.update(repr(data[place]).encode())
        self.sha256 = digest.hexdigest()

    def read(self, place: int) -> TrainingRow:
        """The row at a place from 0.

        Raises:
            ValueError: If an id of the row has no text; names the row.
        """
        source = f"{self._name}, row {place}"
        try:
            return self._to_row(self._data[place], source)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def __len__(self) -> int:
        return len(self._data)


def read_msmarco(path: str, configs: list[str]) -> Rows:
    """MS MARCO's 39,780,704 triplets with the margin of an ensemble of cross-encoders.

    Columns ``query_id``, ``positive_id``, ``negative_id``, ``score``; texts in the configurations ``queries``
    (``query_id``, ``query``) and ``corpus`` (``passage_id``, ``passage``). The score is a margin: the row's scores are
    the margin and 0.

    Raises:
        ValueError: If another configuration than ``bert-ensemble-margin-mse`` is asked for, or a score is bad.
    """
    if configs not in ([MARGINS], []):
        raise ValueError(f"train_data: of {path} only {MARGINS} can be read, not {'+'.join(configs)}")
    queries = TextsById(_load(path, "queries"), "query_id", "query")
    passages = TextsById(_load(path, "corpus"), "passage_id", "passage")

    def to_row(item: dict[str, Any], source: str) -> TrainingRow:
        positive, negative = passages[item["positive_id"]], passages[item["negative_id"]]
        return TrainingRow(queries[item["query_id"]], positive, (negative,), (float(item["score"]), 0.0), source)

    return DatasetRows(f"{path}:{MARGINS}", _load(path, MARGINS), "score", to_row)


def read_ettin(path: str, configs: list[str]) -> Rows:
    """Pairs with the raw logit of a large re-ranker, 143 million in all: columns ``query``, ``document``, ``label``.

    Args:
        path: Hub id or folder.
        configs: Its configurations to read, such as ``agnews``; none reads all.
    """
    from datasets import concatenate_datasets, get_dataset_config_names

    parts = [_load(path, config) for config in configs or get_dataset_config_names(path)]

    def to_row(item: dict[str, Any], source: str) -> TrainingRow:
        return TrainingRow(item["query"], item["document"], (), (float(item["label"]),), source)

    return DatasetRows(f"{path}:{'+'.join(configs)}", concatenate_datasets(parts), "label", to_row)


READERS: dict[str, Callable[[str, list[str]], Rows]] = {
    "sentence-transformers/msmarco": read_msmarco,
    "cross-encoder/ettin-reranker-v1-data": read_ettin,
}


def is_public_set(source: str) -> bool:
    """Whether ``source`` is the name of a public set, or a folder whose path ends in one, perhaps with configurations."""
    return _find_reader(source) is not None


def read_public_set(source: str) -> Rows:
    """Read ``NAME`` or ``NAME:CONFIGURATION+CONFIGURATION``.

    Raises:
        ImportError: If datasets is not installed; the message names the extra.
        ValueError: If there is no such set or configuration, or a score is missing or not finite; names the row.
    """
    reader = _find_reader(source)
    if reader is None:
        raise ValueError(f"train_data: {source} is none of {', '.join(READERS)}")
    path, configs = split_source(source, "")
    return reader(path, [config for config in configs.split("+") if config])


def _find_reader(source: str) -> Callable[[str, list[str]], Rows] | None:
    path, _ = split_source(source, "")
    path = path.replace("\\", "/").rstrip("/")
    return next((reader for name, reader in READERS.items() if path == name or path.endswith(f"/{name}")), None)


def _load(path: str, config: str) -> Dataset:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError('training needs datasets: pip install "mice-st[train]"') from error
    return load_dataset(path, config, split="train")
