"""Files damaged at random give documents, or one error that names them."""

import sys
from pathlib import Path

import pytest

for package in ("pyarrow", "zstandard"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parents[2]))  # scripts/ is no part of the package

from scripts.fuzz_files import fuzz, outcome  # noqa: E402


def test_some_damaged_files() -> None:
    found = fuzz(0, 400)
    assert sum(found.values()) == 400
    assert min(found["documents"], found["error"]) > 50  # both happen


@pytest.mark.slow
def test_many_damaged_files() -> None:
    assert sum(fuzz(400, 20_000).values()) == 20_000


def test_another_exception_is_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("text")

    monkeypatch.setattr("scripts.fuzz_files.read_corpus", broken)
    with pytest.raises(KeyError):
        outcome(0, tmp_path)
    with pytest.raises(RuntimeError, match="file 0: KeyError"):
        fuzz(0, 1)
