"""The figures of the house: each counts what it says, on examples whose figures are known."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts import measure_house  # noqa: E402


@pytest.mark.parametrize(
    ("source", "bare", "annotated"),
    [
        ("def f(a, b: int, *c: Any, d: Any = 1, **e: Any): ...", 3, 4),
        ("def f(a: Any | None, b: list[Any]) -> Any: ...", 0, 2),
        ("class A:\n    async def f(self, a: 'Any', /): ...", 0, 1),
    ],
)
def test_bare_any_is_counted(source: str, bare: int, annotated: int) -> None:
    assert measure_house.count_bare_any(source) == (bare, annotated)


def test_path_of_a_call_sees_each_function_of_the_folder_once(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.py").write_text("def f(g):\n    h()\n    return [g(), h()]\n\ndef h():\n    return 1\n")
    (tmp_path / "outside.py").write_text("def g():\n    return 2\n")
    names: dict[str, object] = {}
    for file in ("inside/a.py", "outside.py"):
        exec(compile((tmp_path / file).read_text(), str(tmp_path / file), "exec"), names)
    with measure_house.PathOfACall(tmp_path / "inside") as path:
        names["f"](names["g"])  # type: ignore[operator]
    assert {name for _, _, name in path.functions} == {"f", "h"}
    assert len(path.functions) == 2


def test_sources_of_a_small_house(tmp_path: Path) -> None:
    files = {
        "mice_st/__init__.py": "",
        "mice_st/a.py": "from mice_st.b import f\n\n\n\n",
        "mice_st/b.py": "def f():\n    from mice_st import a\n",
        "mice_st/py.typed": "",
        "modeling/__init__.py": "",
        "modeling/modeling_mice.py": "def f(a: Any, b: int):\n    pass\n",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    figures = measure_house.measure_sources(tmp_path)
    assert figures["mice_st: files"] == 3
    assert figures["mice_st: lines"] == 6
    assert figures["mice_st: largest file, lines"] == "4 (a.py)"
    assert figures["mice_st: names"] == 2
    assert (figures["import circles"], figures["modules on a circle"]) == (1, 2)
    assert figures["modeling: parameters annotated Any"] == "1 of 2"
    assert figures["Hub folder: files of code"] == 1


@pytest.mark.slow
def test_rank_passes_through_the_cross_encoder_and_the_model() -> None:
    figures = measure_house.measure_rank(ROOT)
    assert 3 <= figures["rank: files"] <= 12
    assert figures["rank: files"] < figures["rank: functions"] <= figures["rank: with comprehensions and lambdas"]
