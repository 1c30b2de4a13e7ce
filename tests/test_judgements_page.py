"""The page on runs and judgements: every test that its table names is there."""

import re

from tests.markdown_page import ROOT


def test_each_row_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "judgements.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ") and not line.startswith("| **")]
    named = [re.fullmatch(r" `(test_\w+)` ", cells[3]) for cells in rows[1:]]
    assert len(named) >= 30
    assert all(named), "every row names one test"
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    written = set(re.findall(r"^def (test_\w+)\(", sources, flags=re.MULTILINE))
    assert [name[1] for name in named if name and name[1] not in written] == []
