"""MiceCrossEncoder: the folder that it saves is the Hub repository, and runs no code of its own unasked."""

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentence_transformers
from sentence_transformers import CrossEncoder

import mice_st
from mice_st import MiceCrossEncoder
from mice_st.modeling.st_mice import MiceTransformer
from tests.text_pairs import PAIRS, agree, read


@pytest.fixture(scope="module")
def hub_files(mice_folder: Path) -> set[str]:
    code = {path.name for path in Path(mice_st.modeling.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert {"configuration_mice.py", "modeling_mice.py", "st_mice.py"} <= code
    configs = {"config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"}
    return code | configs | {"model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_saved_folder_is_the_hub_repository(mice_folder: Path, hub_files: set[str]) -> None:
    assert files(mice_folder) == hub_files
    for path in Path(mice_st.modeling.__file__).parent.glob("*.py"):
        if path.name != "__init__.py":
            assert (mice_folder / path.name).read_bytes() == path.read_bytes()
    config = read(mice_folder, "config.json")
    assert config["model_type"] == "mice"
    assert config["backbone_config"]["model_type"] == "bert"
    assert config["auto_map"] == {
        "AutoConfig": "configuration_mice.MiceConfig",
        "AutoModel": "modeling_mice.MiceModel",
        "AutoModelForSequenceClassification": "modeling_mice.MiceForSequenceClassification",
    }
    assert [module["type"] for module in read(mice_folder, "modules.json")] == ["st_mice.MiceTransformer"]
    settings = read(mice_folder, "config_sentence_transformers.json")
    assert settings["model_type"] == "CrossEncoder"
    assert settings["activation_fn"] == "torch.nn.modules.linear.Identity"
    assert set(settings["requirements"]) == {"sentence-transformers", "transformers"}
    tokenizer = read(mice_folder, "tokenizer_config.json")
    assert tokenizer["split_special_tokens"] is True
    assert not {"is_local", "local_files_only"} & set(tokenizer)


def test_the_saved_folder_names_no_folder_of_this_machine(
    mice_folder: Path, cross_encoder_folder: Path, tmp_path: Path
) -> None:
    MiceCrossEncoder(str(mice_folder), device="cpu").save(str(tmp_path))
    for folder in (mice_folder, tmp_path):
        for path in folder.glob("*.json"):
            text = path.read_text(encoding="utf-8")
            for private in (cross_encoder_folder, mice_folder, tmp_path, Path.home()):
                assert str(private) not in text, path.name


def test_saving_again_changes_nothing(mice_folder: Path, hub_files: set[str], tmp_path: Path) -> None:
    MiceCrossEncoder(str(mice_folder), device="cpu").save(str(tmp_path / "first"))
    MiceCrossEncoder(str(tmp_path / "first"), device="cpu").save_pretrained(str(tmp_path / "second"))
    for folder in (tmp_path / "first", tmp_path / "second"):
        assert files(folder) == hub_files
        for name in hub_files - {"README.md", "tokenizer.json"}:
            assert (folder / name).read_bytes() == (mice_folder / name).read_bytes(), name
        assert read(folder, "tokenizer.json")["model"] == read(mice_folder, "tokenizer.json")["model"]


def test_a_folder_of_other_code_runs_the_installed_code(
    mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path
) -> None:
    """No trust is asked for, so nothing of the folder may run."""
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    for path in folder.glob("*.py"):
        path.write_text("raise RuntimeError('code of the folder ran')\n", encoding="utf-8")
    agree(MiceCrossEncoder(str(folder), device="cpu").predict(PAIRS), mice.predict(PAIRS))


def test_the_hook_that_finds_our_module_class_is_still_called(mice: MiceCrossEncoder, mice_folder: Path) -> None:
    """``_load_module_class_from_ref`` is private to sentence-transformers; here is what we rely on."""
    theirs = inspect.signature(CrossEncoder._load_module_class_from_ref)
    assert list(theirs.parameters)[:2] == ["self", "class_ref"]
    assert type(mice[0]) is MiceTransformer
    seen: list[str] = []

    class Watching(MiceCrossEncoder):
        def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
            seen.append(class_ref)
            return super()._load_module_class_from_ref(class_ref, *args, **kwargs)

    Watching(str(mice_folder), device="cpu")
    assert seen == ["st_mice.MiceTransformer"]
    # Every other class is sentence-transformers' business.
    reference = "sentence_transformers.base.modules.transformer.Transformer"
    found = mice._load_module_class_from_ref(reference, str(mice_folder), False, None, {})
    assert found is sentence_transformers.base.modules.transformer.Transformer


def test_a_type_that_an_older_save_wrote_is_found(mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path) -> None:
    """``CrossEncoder.save`` of an installed class names it in full."""
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    text = (folder / "modules.json").read_text(encoding="utf-8")
    (folder / "modules.json").write_text(text.replace("st_mice.", "mice_st.modeling.st_mice."), encoding="utf-8")
    loaded = MiceCrossEncoder(str(folder), device="cpu")
    agree(loaded.predict(PAIRS), mice.predict(PAIRS))
    loaded.save(str(tmp_path / "again"))
    assert read(tmp_path / "again", "modules.json")[0]["type"] == "st_mice.MiceTransformer"
