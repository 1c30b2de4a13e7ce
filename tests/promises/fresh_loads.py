"""Loads of a model, each in a process of its own, that do not pay for importing torch each time.

Run as a script it is a process that has imported the libraries and nothing else; for each line of JSON on its standard input it forks,
and the child loads the model as a process does that has just started: no module of remote code, no connection, no client.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WAYS = ("AutoModelForSequenceClassification", "CrossEncoder", "MiceCrossEncoder")


class FreshLoads:
    """The process, started with ``with``.

    Args:
        folder: For caches; empty.
        **environment: Variables of the process, such as ``HF_ENDPOINT``.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        caches = {"HF_HOME": str(folder / "hf"), "HF_MODULES_CACHE": str(folder / "modules")}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **caches, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> FreshLoads:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """Empty both caches, as on a machine that has never seen the model."""
        for path in self.folder.iterdir():
            shutil.rmtree(path)

    def scores(self, way: str, source: str, pairs: Sequence[tuple[str, str]]) -> list[float] | str:
        """Scores of the pairs, or the error that loading or scoring ended in, as ``Type: message``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([way, source, list(pairs)]), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return answer


def load_and_score(way: str, source: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """What a user of each way types."""
    pairs = [(query, document) for query, document in pairs]
    if way == "MiceCrossEncoder":
        from mice_st import MiceCrossEncoder

        return MiceCrossEncoder(source, device="cpu").predict(pairs).tolist()
    sys.modules["mice_st"] = None  # type: ignore[assignment]  # where it is not installed
    if way == "CrossEncoder":
        from sentence_transformers import CrossEncoder

        return CrossEncoder(source, trust_remote_code=True, device="cpu").predict(pairs).tolist()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
    network = AutoModelForSequenceClassification.from_pretrained(source, trust_remote_code=True).eval()
    encoding = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    return network(**encoding).logits.squeeze(-1).tolist()


def serve() -> None:
    """One fork for each line."""
    import sentence_transformers  # noqa: F401  (so that no child has to)
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401

    torch.set_num_threads(1)
    time.sleep = lambda _seconds: None  # a server that is gone stays gone, however long a client waits between attempts
    answers = os.dup(1)
    os.dup2(2, 1)  # what the libraries print is no answer
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answer: Any
            try:
                answer = load_and_score(*json.loads(line))
            except BaseException as error:  # the answer is the error, whatever it is
                answer = f"{type(error).__name__}: {error}"
            os.write(answers, (json.dumps(answer) + "\n").encode())
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    serve()
