"""The command ``mice-st``: finds the command, reads its flags, runs it, and turns what goes wrong into one line.

Nothing is imported above ``main``, so that Ctrl-C is one line from the first moment on, and a misspelt word costs no import of torch.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Name of the command and its flags; those of the process where it is left out.

    Returns:
        The exit status: 0; 2 after an error that one line on standard error explains; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    running: list[Any] = []  # name and options of the command, once they are read
    before, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        return _run(arguments, running)
    except KeyboardInterrupt:
        _report_interrupt(arguments, running)
        return 130
    finally:
        sys.unraisablehook = before


def _run(arguments: list[str], running: list[Any]) -> int:
    from mice_st.commands.registry import COMMANDS

    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from mice_st import __version__

        print(__version__)
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"mice-st: {_explain_command(name, list(COMMANDS))}", file=sys.stderr)
        return 2
    try:
        return _run_command(name, arguments[1:], running)
    # A bad value raises one of these wherever it is noticed; StoreError is no ValueError, and is not imported before a store is opened.
    except (ValueError, OSError, ImportError) as error:
        return _report_error(name, error)
    except Exception as error:
        if not _is_store_error(error):
            raise  # a mistake of ours keeps its traceback
        return _report_error(name, error)


def _run_command(name: str, arguments: list[str], running: list[Any]) -> int:
    from mice_st.commands.parser import format_help, parse_command
    from mice_st.commands.registry import COMMANDS, load_reference

    command = COMMANDS[name]
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--help" in words or "-h" in words:
        print(format_help(name), end="")
        return 0
    if command.recipe and arguments and arguments[0].endswith(".toml"):
        running[:] = [name, arguments]
        load_reference(command.recipe)(arguments[0], arguments[1:])
        return 0
    options, overwrite = parse_command(name, arguments)
    running[:] = [name, options]

    from mice_st.commands.checks import check_options

    check_options(name, options, overwrite)
    return load_reference(command.function)(options) or 0


def _usage() -> str:
    import textwrap

    from mice_st.commands.registry import COMMANDS

    width = max(len(name) for name in COMMANDS)
    lines = []
    for name, command in COMMANDS.items():
        lines += textwrap.wrap(
            command.summary, 80, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4)
        )
    end = "mice-st COMMAND --help explains a command and its flags; mice-st --version prints the version."
    return "\n".join(["usage: mice-st COMMAND [FLAGS]", "", *lines, "", *textwrap.wrap(end, 80)])


def _explain_command(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=2)
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    return f"there is no command {name!r}; there are {', '.join(known)}{meant}"


def _report_error(name: str, error: Exception) -> int:
    import logging

    logging.getLogger("mice_st").debug("the error in full", exc_info=error)
    print(f"mice-st {name}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return 2


def _is_store_error(error: Exception) -> bool:
    errors = sys.modules.get("mice_st.states.errors")
    return errors is not None and isinstance(error, errors.StoreError)


def _report_interrupt(arguments: list[str], running: list[Any]) -> None:
    """One line: that it was interrupted, and what was saved."""
    import os

    if os.environ.get("RANK", "0") != "0":  # torchrun: the first process speaks for all
        return
    said = "interrupted"
    try:
        from mice_st.commands.checks import describe_saved

        if running and (saved := describe_saved(*running)):
            said += f"; {saved}"
    except (KeyboardInterrupt, ValueError, OSError, ImportError):  # a second Ctrl-C, or files half-written
        pass
    # Behind what a progress bar has left on the line.
    print(f"{os.linesep if sys.stderr.isatty() else ''}mice-st {' '.join(arguments[:1])}: {said}", file=sys.stderr)


def _interrupt_again(unraisable: Any) -> None:
    """Python drops a Ctrl-C that arrives in a callback, such as those of the import system: send it once more."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        import _thread

        _thread.interrupt_main()
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(main())
