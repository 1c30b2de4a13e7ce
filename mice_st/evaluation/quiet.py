"""Messages of libraries that experiments leave out while they run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_only() -> Iterator[None]:
    """Let the package log nothing below an error within the block, or within a function that this decorates.

    An experiment scores hundreds of queries, and a line for each of them with a cut document says nothing new.
    """
    logger = logging.getLogger("mice_st")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
