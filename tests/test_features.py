"""docs/features.md names only what exists: commands, flags, fields and files."""

import inspect
import re
from pathlib import Path

from mice_st.commands.parser import read_flags
from mice_st.commands.registry import COMMANDS, load_reference
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.research.laboratory.baselines import PRESET, VECTORS, parse_mice_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`]+)`", PAGE)
# Snippets that are no field of MiceConfig, though they look like one.
WORDS = {"compress_dim", "self_first", "cross_first", "per_layer", "joint", "bce", "mse", "mnrl", "rank_net", "adr_mse"}


def test_commands_and_flags_exist() -> None:
    used = [snippet.split() for snippet in CODE if snippet.startswith("mice-st ")]
    assert len(used) > 20
    for _, name, *arguments in used:
        known = {flag.option for flag in read_flags(load_reference(COMMANDS[name].options)).values()}
        flags = {argument.replace("--no-", "--") for argument in arguments if argument.startswith("--")}
        assert flags <= known, (name, flags - known)


def test_fields_of_the_config_exist() -> None:
    known = set(inspect.signature(MiceConfig).parameters) | {"contextualization_layers"}
    named = {snippet for snippet in CODE if re.fullmatch(r"[a-z]+_[a-z_]+", snippet)} - WORDS
    assert len(named) > 12
    assert named <= known, named - known


def test_losses_exist() -> None:
    from mice_st.training.losses import LAYOUTS

    named = set(re.findall(r"--loss (\w+)", PAGE)) | {"mse", "bce", "mnrl", "rank_net", "adr_mse"}
    assert named <= set(LAYOUTS)


def test_files_exist() -> None:
    named = [snippet for snippet in CODE if re.fullmatch(r"(docs|examples|mice_st|modeling|tests)/\S+", snippet)]
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_baselines_exist() -> None:
    named = re.findall(r"--baselines ([^`]+)`", PAGE)
    assert len(named) > 3
    for name in " ".join(named).split():
        assert PRESET.fullmatch(name) or name in VECTORS or parse_mice_name(name)
