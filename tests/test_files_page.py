"""docs/files.md names a test for each case, and each of them exists."""

import ast
import re

from tests.markdown_page import ROOT

PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
TEST = re.compile(r"^`(tests/[\w/]+\.py)::(test_\w+)`$")


def rows_of_tables(page: str) -> list[list[str]]:
    """The cells of each row of the tables whose last column is headed Test."""
    rows: list[list[str]] = []
    in_table = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            in_table = False
        elif cells[-1] == "Test":
            in_table = True
        elif in_table and not set(line) <= set("|- "):
            rows.append(cells)
    return rows


def missing_tests(page: str) -> list[str]:
    """Rows without a test, or with one that does not exist."""
    missing = []
    for cells in rows_of_tables(page):
        found = TEST.match(cells[-1])
        if found is None or len(cells) != 3:
            missing.append(f"no test: {cells}")
            continue
        path = ROOT / found[1]
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        if found[2] not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{found[1]} has no {found[2]}")
    return missing


def test_each_case_of_the_page_has_a_test() -> None:
    assert len(rows_of_tables(PAGE)) > 30
    assert missing_tests(PAGE) == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    made = "| Case | What | Test |\n|---|---|---|\n| a | b | `tests/test_files_page.py::{}` |\n"
    assert missing_tests(made.format("test_each_case_of_the_page_has_a_test")) == []
    assert missing_tests(made.format("test_absent")) == ["tests/test_files_page.py has no test_absent"]
    assert missing_tests(made.replace("`", "").format("test_absent"))[0].startswith("no test")
