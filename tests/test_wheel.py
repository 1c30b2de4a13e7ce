"""The built wheel holds what pyproject.toml promises, and imports without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds from a copy: setuptools would put leftovers of the repository's own build/ into the wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mice_st", "modeling", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {f"mice_st/{path.relative_to(ROOT / 'mice_st').as_posix()}" for path in (ROOT / "mice_st").rglob("*.py")}
    code |= {f"mice_st/modeling/{path.name}" for path in (ROOT / "modeling").glob("*.py")}
    assert code <= names
    assert "mice_st/modeling/modeling_mice.py" in names
    assert {"mice_st/py.typed", "mice_st/hub/model_card.md.jinja"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mice_st"}


def test_wheel_imports_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    # -P keeps the working folder off sys.path; PYTHONPATH comes before the editable install.
    code = "import mice_st, mice_st.modeling.modeling_mice as m; print(mice_st.__file__); print(m.__file__)"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [Path(line).is_relative_to(target) for line in ran.stdout.split()] == [True, True]
