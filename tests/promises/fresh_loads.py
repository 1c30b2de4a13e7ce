"""Code in processes that have just started, without paying for the import of torch each time.

Run as a script it is a process that has imported the libraries and nothing else; for each line of JSON on its standard input it forks,
and the child runs the code as a process does that has just started: no module of remote code, no connection, no client.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


class FreshProcesses:
    """The process that forks, started with ``with``.

    Args:
        folder: For caches; empty.
        **environment: Variables of the process, such as ``HF_ENDPOINT``.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        caches = {"HF_HOME": str(folder / "hf"), "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **caches, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> FreshProcesses:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """Empty both caches, as on a machine that has never seen the model."""
        for path in self.folder.iterdir():
            shutil.rmtree(path)

    def run(self, code: str, *arguments: str | Path, without_mice_st: bool) -> str:
        """What the code prints, with these arguments.

        Raises:
            RuntimeError: If it ends in an error; the message is ``Type: message``.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        task = json.dumps([code, list(map(str, arguments)), without_mice_st])
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        printed, error = json.loads(self.process.stdout.readline())
        if error is not None:
            raise RuntimeError(error)
        return printed


def run_code(code: str, arguments: list[str], without_mice_st: bool) -> tuple[str, str | None]:
    """In the child: what the code prints, and the error that it ends in."""
    sys.argv = ["script.py", *arguments]
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (until the child ends; a question is a failure)
    if without_mice_st:
        sys.modules["mice_st"] = None  # type: ignore[assignment]  # where it is not installed
    printed, error = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(code, "script.py", "exec"), {"__name__": "__main__"})
        except BaseException as raised:  # the answer is the error, whatever it is
            error = f"{type(raised).__name__}: {raised}"
    return printed.getvalue(), error


def serve() -> None:
    """One fork for each line."""
    import sentence_transformers  # noqa: F401  (so that no child has to)
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401

    torch.set_num_threads(1)
    time.sleep = lambda _seconds: None  # a server that is gone stays gone, however long a client waits between attempts
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed past Python is no answer
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answers.write(json.dumps(run_code(*json.loads(line))) + "\n")
            answers.flush()
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    serve()
