"""``mice-st rank``: re-rank the texts of a file for one query, from the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import transformers

from mice_st.collection import read_corpus
from mice_st.cross_encoder import MiceCrossEncoder


@dataclass
class RankOptions:
    """Re-rank documents for one query.

    Raises:
        ValueError: If ``top_k`` is below 1.
    """

    model: str = field(metadata={"help": "Folder or Hub id of a MICE model."})
    query: str = field(metadata={"help": "The query."})
    documents: str = field(
        metadata={"help": "File of one text per line, JSON Lines, or a BEIR folder; - reads standard input."}
    )
    top_k: int = field(default=10, metadata={"help": "Documents to print."})
    json: bool = field(default=False, metadata={"help": "Print one JSON object per document instead of a table."})

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k: must be at least 1, got {self.top_k}")


def run_rank(options: RankOptions) -> None:
    """Rank and print, best first."""
    transformers.utils.logging.disable_progress_bar()
    documents = list(read_corpus(options.documents))
    if not documents:
        raise ValueError(f"{options.documents}: there are no documents")
    model = MiceCrossEncoder(options.model)
    ranking = model.rank(options.query, [document.text for document in documents], top_k=options.top_k)
    for place, entry in enumerate(ranking, start=1):
        document = documents[entry["corpus_id"]]
        if options.json:
            line = {"rank": place, "score": entry["score"], "id": document.id, "text": document.text}
            print(json.dumps(line, ensure_ascii=False))
        else:
            text = " ".join(document.text.split())
            shown = text if len(text) <= 80 else text[:79] + "…"
            print(f"{place:>4}  {entry['score']:>9.4f}  {document.id}  {shown}")
