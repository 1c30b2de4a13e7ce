"""The command ``mice-st store``: look after a store of document states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass
class StoreOptions:
    """Look after a store."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("action", "store")

    action: Literal["info", "verify", "compact"] = field(
        metadata={"help": "Count what it holds, check every row, or give back the space of what was deleted."}
    )
    store: str = field(metadata={"help": "The store.", "metavar": "STORE"})


def run_store(options: StoreOptions) -> int:
    """Do it and print what came out.

    Returns:
        The exit status: 1 if ``verify`` found a problem.
    """
    from mice_st.states.engines import open_store
    from mice_st.states.info import store_info

    with open_store(options.store, None, read_only=options.action != "compact") as store:
        if options.action == "info":
            print(store_info(store, options.store))
            return 0
        if options.action == "compact":
            compacted = store.compact()
            print(f"{compacted.bytes_before:,} bytes before, {compacted.bytes_after:,} after")
            return 0
        found = store.verify()
    for problem in found.problems:
        print(f"problem: {problem}")
    print(f"{found.documents:,} sound documents, {found.tokens:,} tokens; {len(found.problems)} problems")
    return 0 if found.ok else 1
