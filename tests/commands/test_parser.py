"""Flags from dataclasses: spellings, booleans, positions, nested options, help."""

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, get_type_hints

import pytest

from mice_st.commands.parser import format_help, parse_command, parse_flags, read_flags, value_of
from mice_st.commands.registry import COMMANDS, load_reference


@dataclass
class Inner:
    """Options inside others."""

    learning_rate: float = field(default=0.5, metadata={"help": "Rate."})


@dataclass
class Options:
    """Flags of every type."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("query", "files")

    query: str = field(metadata={"help": "Query."})
    files: list[str] = field(default_factory=lambda: ["a", "b"], metadata={"help": "Files."})
    top_k: int = field(default=3, metadata={"help": "Number."})
    as_table: bool = field(default=True, metadata={"help": "Table."})
    has_header: bool | None = field(default=None, metadata={"help": "Header."})
    how: Literal["fast", "slow"] | None = field(default=None, metadata={"help": "Way."})
    documents: str = field(default="", metadata={"help": "Documents.", "aliases": ("corpus",)})
    inner: Inner = field(default_factory=Inner)


def parse(*words: str) -> Options:
    options: Options = parse_flags("rank", Options, words)
    return options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("q", {}),
        ("--query q", {}),
        ("q --top-k 5", {"top_k": 5}),
        ("--top_k=5 q", {"top_k": 5}),
        ("q x y --top-k 5", {"files": ["x", "y"], "top_k": 5}),
        ("q --files x y", {"files": ["x", "y"]}),
        ("q --no-as-table", {"as_table": False}),
        ("q --no_as_table", {"as_table": False}),
        ("q --as-table false", {"as_table": False}),
        ("q --as_table=False", {"as_table": False}),
        ("--no-as-table q", {"as_table": False}),
        ("--has-header q", {"has_header": True}),
        ("q --has_header true", {"has_header": True}),
        ("q --no-has-header", {"has_header": False}),
        ("q --how slow", {"how": "slow"}),
        ("q --corpus c", {"documents": "c"}),
        ("q --learning-rate 2", {"inner": Inner(2.0)}),
        ("q --top-k -1", {"top_k": -1}),
        ("--top-k 4 -- q --top-k", {"files": ["--top-k"], "top_k": 4}),
    ],
)
def test_every_spelling_of_a_flag(words: str, expected: dict[str, Any]) -> None:
    assert parse(*words.split()) == Options(**{"query": "q", **expected})


def test_a_query_may_be_a_sentence_that_begins_with_a_dash() -> None:
    assert parse("-5 degrees", "--how", "fast") == Options("-5 degrees", how="fast")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "missing: --query; mice-st rank --help"),
        ("q --topk 5", "there is no flag --topk; did you mean --top-k"),
        ("q -k 5", "there is no flag -k"),
        ("q --as-table=maybe", "--as-table: takes no value, or true or false, got 'maybe'"),
        ("q --top-k five", "--top-k: invalid int value: 'five'"),
        ("q --top-k", "--top-k: expected one argument"),
        ("q --how medium", "--how: invalid choice: 'medium'"),
        ("q --top 5", "there is no flag --top;"),
        ("q --no-top-k", "there is no flag --no-top-k"),
    ],
)
def test_what_is_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(*words.split())


def test_a_word_too_many_is_refused() -> None:
    @dataclass
    class One:
        POSITIONAL: ClassVar[tuple[str, ...]] = ("action",)
        action: Literal["info", "verify"] = field(metadata={"help": "Action."})

    with pytest.raises(ValueError, match="'x' belongs to no flag"):
        parse_flags("store", One, ["info", "x"])
    with pytest.raises(ValueError, match="action: there is no 'infos'; choose from info, verify"):
        parse_flags("store", One, ["infos"])


def test_overwrite_is_a_flag_of_what_could_overwrite() -> None:
    assert parse_command("compare", ["r.json", "--overwrite"])[1] is True
    assert parse_command("compare", ["r.json"])[1] is False
    with pytest.raises(ValueError, match="no flag --overwrite"):
        parse_command("store", ["info", "s", "--overwrite"])


def test_values_are_read_wherever_their_field_lies() -> None:
    options = Options("q", inner=Inner(0.25))
    assert (value_of(options, "learning_rate"), value_of(options, "query"), value_of(options, "absent")) == (
        0.25,
        "q",
        None,
    )


def test_a_type_that_no_flag_can_have_is_refused() -> None:
    @dataclass
    class Bad:
        table: dict[str, int] = field(default_factory=dict)

    with pytest.raises(TypeError, match="table: a flag cannot have the type"):
        read_flags(Bad)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_texts_are_sentences_with_one_default(name: str) -> None:
    options_class = load_reference(COMMANDS[name].options)
    for flag in read_flags(options_class).values():
        assert flag.help[:1].isupper(), (flag.name, flag.help)
        assert flag.help.endswith("."), (flag.name, flag.help)
        given = flag.default not in (MISSING, None, "", [])
        assert flag.help.lower().count("default") <= (0 if given else 1), (flag.name, flag.help)
    text = " ".join(format_help(name).split())
    for flag in read_flags(options_class).values():
        assert flag.option in text
        assert "_" not in flag.option
    assert not any(alias in text.split() for flag in read_flags(options_class).values() for alias in flag.aliases)


def test_one_name_means_one_thing() -> None:
    """The flags that several commands have are of one type in all of them, or a list of it."""
    types: dict[str, set[Any]] = {}
    for command in COMMANDS.values():
        for flag in read_flags(load_reference(command.options)).values():
            types.setdefault(flag.name, set()).add(flag.convert)
    assert {name: kinds for name, kinds in types.items() if len(kinds) > 1} == {}
    assert not {"source", "corpus", "corpora", "path"} & types.keys()


def test_options_classes_resolve_their_types_without_heavy_imports() -> None:
    for command in COMMANDS.values():
        options_class = load_reference(command.options)
        hints = get_type_hints(options_class)
        assert all(item.name in hints for item in fields(options_class))
        assert is_dataclass(options_class)
