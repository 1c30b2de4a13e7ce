"""``mice-st submit``: the tree that mteb reads, metadata that loads the model, and refusals."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.data.collection import write_beir
from tests.evaluation.made import make_collection

pytest.importorskip("mteb")

REVISION = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def evaluated(mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Flags for a submission of a model that was evaluated on a folder."""
    shutil.copytree(mice_folder, tmp_path / "model")
    write_beir(make_collection("tiny", 0), tmp_path / "tiny", "test")
    evaluate = ["--model", str(tmp_path / "model"), "--suite", f"folder:{tmp_path / 'tiny'}", "--device", "cpu"]
    assert cli.main(["evaluate", *evaluate, "--output", str(tmp_path / "out.json")]) == 0
    capsys.readouterr()
    given = {"model": tmp_path / "model", "results": tmp_path / "out.json", "output": tmp_path / "submission"}
    flags = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    return [*flags, "--repo", "org/mice-base", "--revision", REVISION]


def test_a_dry_run(
    evaluated: list[str],
    tmp_path: Path,
    mice: MiceCrossEncoder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mteb

    monkeypatch.setattr(
        mteb.ResultCache, "submit_results", lambda *_, **__: pytest.fail("this would reach the network")
    )
    assert cli.main(["submit", *evaluated, "--license", "apache-2.0"]) == 0
    printed = capsys.readouterr().out
    figure = json.loads((tmp_path / "out.json").read_text())["systems"][0]["sets"]["tiny"]["main_score"]
    assert re.search(rf"checked: tiny-\w+: {figure:.4f}; not a task of mteb", printed)
    assert "mock-run: 4 tasks pass" in printed
    assert "Title: Add model org/mice-base" in printed
    assert "not given: release_date, languages, training_datasets." in printed
    assert "nothing was sent" in printed
    # mteb itself finds the result under the model's name and commit ...
    (read,) = (
        mteb.ResultCache(tmp_path / "submission").load_results(["org/mice-base"], include_remote=False).model_results
    )
    assert read.model_revision == REVISION
    assert read.task_results[0].get_score() == pytest.approx(figure, abs=1e-5)
    # ... and the metadata that goes into mteb's code loads the model, here from a folder of that name.
    names: dict = {}
    exec((tmp_path / "submission" / "model_meta.py").read_text(), names)
    shutil.copytree(tmp_path / "model", tmp_path / "hub" / "org" / "mice-base")
    monkeypatch.chdir(tmp_path / "hub")
    loaded = names["mice_base"].load_model(device="cpu")
    pairs = [("berlin museum", "the river in berlin"), ("sort a file", "cat and dog")]
    assert loaded.model.predict(pairs) == pytest.approx(mice.predict(pairs), abs=1e-5)
    assert names["mice_base"].license == "apache-2.0"


def test_results_of_another_model_are_refused(
    evaluated: list[str], tmp_path: Path, shake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = MiceCrossEncoder(str(tmp_path / "model"), device="cpu")
    shake(changed, seed=9)
    changed.save(str(tmp_path / "model"))
    assert cli.main(["submit", *evaluated]) == 2
    assert "as it is now" in capsys.readouterr().err


def test_damaged_results_are_refused(evaluated: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = (tmp_path / "out.mteb" / "results").glob("*/*/tiny-*.json")
    result = json.loads(file.read_text())
    result["scores"]["test"][0]["main_score"] = 1.5
    file.write_text(json.dumps(result))
    assert cli.main(["submit", *evaluated]) == 2
    assert re.search(r"task tiny-\w+: the main score is 1\.5", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repo", "mice-base"], "repo: must be org/name, got 'mice-base'"),
        (["--revision", "main"], "revision: must be a commit of 40 hexadecimal digits, got 'main'"),
        (["--results", "absent.json"], "absent.json: there is no absent.mteb beside it"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "model": mice_folder,
        "results": "x.json",
        "repo": "org/mice",
        "revision": REVISION,
        "output": tmp_path / "out",
    }
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert cli.main(["submit", *flags, *arguments]) == 2
    assert message in capsys.readouterr().err
