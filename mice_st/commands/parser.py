"""Flags from dataclasses: each field of a command's options is a flag, and argparse reads and explains them.

``--top-k`` and ``--top-k`` are one flag. A boolean is ``--flag`` or ``--no-flag``; ``--flag true`` and ``--flag false`` mean the same. Fields
that the class variable ``POSITIONAL`` names may also be given in that order without their flags. A field that is itself a dataclass gives
its own fields as flags. Metadata of a field: ``help``, ``metavar``, and ``aliases``, further names that are read and shown nowhere.
"""

from __future__ import annotations

import argparse
import difflib
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from mice_st.commands.registry import COMMANDS, load_reference
from mice_st.training.flat import as_flat, flat_fields, from_flat, nested_options

WIDTH = 80  # columns of a help text
LONGEST_CHOICES = 60  # characters; the help of a flag with more names them itself
OVERWRITE = "Overwrite output that exists."


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: Of the field, with underscores.
        convert: A word to the value, or to an item of the list.
        is_list: Whether it takes several words.
        choices: Words that are allowed, or None for any.
        default: Of the field, ``MISSING`` where there is none.
        help: A sentence.
        metavar: Stands for the value in the help.
        aliases: Further names.
    """

    name: str
    convert: Callable[[str], Any]
    is_list: bool
    choices: tuple[str, ...] | None
    default: Any
    help: str
    metavar: str
    aliases: tuple[str, ...]

    @property
    def is_boolean(self) -> bool:
        """Whether it is ``--flag`` or ``--no-flag``."""
        return self.convert is bool

    @property
    def option(self) -> str:
        """As it is written, ``--top-k``."""
        return f"--{self.name.replace('_', '-')}"


def read_flags(options_class: type) -> dict[str, Flag]:
    """The flags of a dataclass, by the names of their fields; those of a nested dataclass stand in its place.

    Raises:
        TypeError: If a field has a type that no flag can have.
    """
    hints = get_type_hints(options_class)
    for inner in nested_options(options_class).values():
        hints |= get_type_hints(inner)
    return {name: _flag(item, hints[name]) for name, item in flat_fields(options_class).items()}


def _flag(item: Field[Any], hint: Any) -> Flag:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    is_list = get_origin(hint) is list
    if is_list:
        (hint,) = get_args(hint)
    choices = get_args(hint) if get_origin(hint) is Literal else None
    convert = str if choices else hint
    if convert not in (str, int, float, bool) or (is_list and convert is bool):
        raise TypeError(f"{item.name}: a flag cannot have the type {item.type}")
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return Flag(
        item.name,
        convert,
        is_list,
        choices,
        default,
        item.metadata.get("help", ""),
        item.metadata.get("metavar") or {int: "N", float: "X"}.get(convert, "TEXT"),
        tuple(item.metadata.get("aliases", ())),
    )


def parse_command(name: str, arguments: Sequence[str]) -> tuple[Any, bool]:
    """The flags of a command of the registry.

    Returns:
        Its options, and whether ``--overwrite`` was given.

    Raises:
        ValueError: As ``parse_flags``.
    """
    command = COMMANDS[name]
    extra = {"overwrite"} if command.overwrites else set()
    values = _parse(name, load_reference(command.options), arguments, extra)
    overwrite = values.pop("overwrite", False)
    return from_flat(load_reference(command.options), values), overwrite


def parse_flags(name: str, options_class: type, arguments: Sequence[str]) -> Any:
    """Flags to the dataclass of a command.

    Args:
        name: Of the command, for messages.
        options_class: The dataclass.
        arguments: The words of the command line behind the command.

    Raises:
        ValueError: If a flag is unknown, missing, or its value is impossible; the message names it.
    """
    return from_flat(options_class, _parse(name, options_class, arguments, set()))


def _parse(name: str, options_class: type, arguments: Sequence[str], extra: set[str]) -> dict[str, Any]:
    """Values by the names of their fields; what was not given is left out."""
    flags = read_flags(options_class)
    parser = _make_parser(name, flags, extra)
    words, behind = _normalise(arguments, flags, extra)
    given, rest = parser.parse_known_args(words)
    values: dict[str, Any] = {key: value for key, value in vars(given).items() if value is not None}
    if unknown := [word for word in rest if word.startswith("-") and len(word) > 1 and not word[1].isdigit()]:
        raise ValueError(explain_unknown(name, unknown[0], [flag.option for flag in flags.values()]))
    _place(options_class, flags, [*rest, *behind], values)
    missing = [flag.option for flag in flags.values() if flag.default is MISSING and flag.name not in values]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}; mice-st {name} --help explains them")
    return values


def _make_parser(name: str, flags: dict[str, Flag], extra: set[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"mice-st {name}", add_help=False, allow_abbrev=False, formatter_class=_formatter
    )
    parser.error = _refuse  # type: ignore[method-assign]
    for flag in flags.values():
        text = _help(flag)
        if flag.is_boolean:
            parser.add_argument(
                flag.option, action=argparse.BooleanOptionalAction, default=None, dest=flag.name, help=text
            )
            continue
        parser.add_argument(
            flag.option,
            dest=flag.name,
            type=flag.convert,
            nargs="+" if flag.is_list else None,
            choices=flag.choices,
            metavar=None if flag.choices and len(",".join(flag.choices)) < LONGEST_CHOICES else flag.metavar,
            help=text,
        )
    if "overwrite" in extra:
        parser.add_argument("--overwrite", action="store_true", default=None, help=OVERWRITE)
    return parser


def _normalise(arguments: Sequence[str], flags: dict[str, Flag], extra: set[str]) -> tuple[list[str], list[str]]:
    """Words with ``-`` in flags, aliases by their names and booleans without a value; and the words behind ``--``."""
    words = list(arguments)
    behind = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    names = {alias: flag.name for flag in flags.values() for alias in (flag.name, *flag.aliases)}
    booleans = {flag.name for flag in flags.values() if flag.is_boolean} | extra
    made: list[str] = []
    place = 0
    while place < len(words):
        word, place = words[place], place + 1
        if not word.startswith("--"):
            made.append(word)
            continue
        written, equals, value = word[2:].partition("=")
        name = written.replace("-", "_")
        name = names.get(name, name)
        if name in booleans:
            if not equals and place < len(words) and words[place].lower() in ("true", "false"):
                value, place = words[place], place + 1
            made.append(_boolean(name, value.lower(), bool(equals)))
        else:
            known = name in names.values() or name in extra or name.removeprefix("no_") in booleans
            made.append((f"--{name.replace('_', '-')}" if known else f"--{written}") + equals + value)
    return made, behind


def _boolean(name: str, value: str, is_given: bool) -> str:
    option = name.replace("_", "-")
    if value not in ("true", "false", "") or (is_given and not value):
        raise ValueError(f"--{option}: takes no value, or true or false, got {value!r}")
    return f"--no-{option}" if value == "false" else f"--{option}"


def _place(options_class: type, flags: dict[str, Flag], words: list[str], values: dict[str, Any]) -> None:
    """Give words that stand without a flag to the positional fields, in their order."""
    waiting = [name for name in getattr(options_class, "POSITIONAL", ()) if name not in values]
    for name in waiting:
        if not words:
            return
        flag = flags[name]
        taken, words = (words, []) if flag.is_list else (words[:1], words[1:])
        for word in taken:
            if flag.choices and word not in flag.choices:
                raise ValueError(f"{name}: there is no {word!r}; choose from {', '.join(flag.choices)}")
        try:
            converted = [flag.convert(word) for word in taken]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        values[name] = converted if flag.is_list else converted[0]
    if words:
        raise ValueError(f"{words[0]!r} belongs to no flag")


def value_of(options: Any, name: str) -> Any:
    """The value of a flag of made options, wherever its field lies; None where there is no such flag."""
    return as_flat(options).get(name)


def explain_unknown(command: str, word: str, known: Sequence[str]) -> str:
    """Name an unknown flag and those that it may have been meant for."""
    written = word.partition("=")[0].replace("_", "-")
    near = difflib.get_close_matches(written, known, n=2)
    meant = f"; did you mean {' or '.join(near)}?" if near else ";"
    return f"there is no flag {word}{meant} mice-st {command} --help lists them all"


def format_help(name: str) -> str:
    """The help of a command, at most ``WIDTH`` columns wide."""
    command = COMMANDS[name]
    options_class = load_reference(command.options)
    flags = read_flags(options_class)
    parser = _make_parser(name, flags, {"overwrite"} if command.overwrites else set())
    parser.add_argument("-h", "--help", action="store_true", help="Show this help.")
    positional = [flags[item] for item in getattr(options_class, "POSITIONAL", ())]
    words = " ".join(
        f"[{flag.name.upper()}{' ...' if flag.is_list else ''}]"
        if flag.default is not MISSING
        else f"{flag.name.upper()}{' ...' if flag.is_list else ''}"
        for flag in positional
    )
    lines = [f"%(prog)s {words} [FLAGS]" if words else "%(prog)s [FLAGS]"]
    if command.recipe:
        lines.insert(0, "%(prog)s RECIPE.toml [FLAGS]")
    parser.usage = "\n       ".join(lines)
    parser.description = " ".join(filter(None, (command.summary, command.notes))).replace("%", "%%")
    return parser.format_help()


def _help(flag: Flag) -> str:
    """The help of a flag, with its default."""
    default = flag.default
    if default is MISSING:
        shown = "required"
    elif flag.is_boolean and default is not None:
        shown = f"default: {'on' if default else 'off'}"
    elif default in (None, "", []):
        shown = ""
    else:
        shown = "default: " + (" ".join(map(str, default)) if isinstance(default, list) else str(default))
    return (flag.help + (f" ({shown})" if shown else "")).replace("%", "%%")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=WIDTH - 1, max_help_position=28)


def _refuse(message: str) -> NoReturn:
    """Raise what argparse would print over several lines before it ends the process."""
    raise ValueError(message.removeprefix("argument "))
