"""Run as a script in a process of its own: load a model without mice-st and print its scores as JSON.

Reads ``{"source", "revision", "pairs"}`` from standard input. The last line of its output is
``{"AutoModelForSequenceClassification": [...], "CrossEncoder": [...], "CrossEncoder over states": [...]}``, logits in
the order of the pairs.
"""

import json
import sys
from typing import Any


def main() -> None:
    """Load through both doors that need no mice-st."""
    sys.modules["mice_st"] = None  # type: ignore[assignment]  # importing it would now fail
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    task: dict[str, Any] = json.load(sys.stdin)
    source, pairs = task["source"], [tuple(pair) for pair in task["pairs"]]
    pinned = {"revision": task["revision"], "trust_remote_code": True}
    tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
    model = AutoModelForSequenceClassification.from_pretrained(source, code_revision=task["revision"], **pinned).eval()
    queries, documents = map(list, zip(*pairs, strict=True))
    encoding = tokenizer(queries, documents, padding=True, return_tensors="pt")
    scores = {"AutoModelForSequenceClassification": model(**encoding).logits.squeeze(-1).tolist()}

    code = {"code_revision": task["revision"]}
    stock = CrossEncoder(source, model_kwargs=code, device="cpu", **pinned)
    scores["CrossEncoder"] = stock.predict(pairs).tolist()
    module = stock[0]
    stored = module.model.encode_documents(**module.preprocess(documents)).unpad()
    over_states = list(zip(queries, stored, strict=True))
    scores["CrossEncoder over states"] = stock.predict(over_states).tolist()
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
