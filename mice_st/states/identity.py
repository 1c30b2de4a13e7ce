"""The identity of stored states: a hash of each document's text, and the fingerprint of the model that made them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from .codecs import get_codec
from .errors import StoreCorruptError, StoreMismatchError, StoreVersionError

FORMAT_VERSION = 2  # of rows and tables; version 1 had no metadata, no words and no file of vectors


def content_hash(text: str) -> str:
    """SHA-256 of a document's text, 64 hexadecimal digits: equal texts need not be encoded again."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """The model and settings that made a store; two stores with equal fingerprints hold interchangeable states.

    Attributes:
        weights_sha256: Hash of the weights that documents pass through.
        tokenizer_sha256: Hash of the tokenizer's definition.
        layer: Contextualisation layers that the documents went through.
        max_length: Tokens at which a document is cut.
        prompt: Text put before each document; empty for none.
        dtype: Precision the encoder ran in, such as ``float32``.
        codec: How states are stored, see ``mice_st.states.codecs``.
        width: Values per token.
        format_version: Of the rows; a change makes older stores unreadable.
    """

    weights_sha256: str
    tokenizer_sha256: str
    layer: int
    max_length: int
    prompt: str
    dtype: str
    codec: str
    width: int
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        get_codec(self.codec)
        if self.width < 1:
            raise ValueError(f"width must be positive, not {self.width}")

    def check(self, expected: Fingerprint, made_by: str = "", used_by: str = "") -> None:
        """Compare with the fingerprint of what is about to use the store.

        Args:
            expected: Of what is about to use it.
            made_by: Name of the model that made the store, for the message.
            used_by: Name of the one that is about to use it, likewise.

        Raises:
            StoreMismatchError: If any field differs; it names the first one and lists the others.
        """
        different = [f.name for f in fields(self) if getattr(self, f.name) != getattr(expected, f.name)]
        if different:
            first = different[0]
            names = (made_by, used_by) if first in ("weights_sha256", "tokenizer_sha256") else ("", "")
            raise StoreMismatchError(first, getattr(self, first), getattr(expected, first), different[1:], *names)

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Fingerprint:
        """Read what ``to_json`` wrote.

        Raises:
            StoreVersionError: If another version of the format wrote it.
            StoreCorruptError: If it is no fingerprint.
        """
        try:
            values = json.loads(line)
            version = values.get("format_version")
            if version != FORMAT_VERSION:
                raise StoreVersionError(version, FORMAT_VERSION)
            return cls(**values)
        except StoreVersionError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise StoreCorruptError(f"the store's fingerprint cannot be read: {error}") from error


Tokenizer = Literal["unicode61", "trigram"]


@dataclass(frozen=True)
class StoreSettings:
    """What a store keeps beside its fingerprint, so that nobody has to repeat it.

    Attributes:
        model: Name of the model that made the states: a folder or a Hub id; for messages, and to load it again.
        overlap: Tokens that neighbouring passages of long documents share; None where long documents are cut.
        tokenizer: How words are told apart for BM25: ``unicode61`` by letters, digits, marks, ``+`` and ``#``, with
            Chinese and Japanese characters one by one; ``trigram`` by three characters each, for any script.
    """

    model: str = ""
    overlap: int | None = None
    tokenizer: Tokenizer = "unicode61"

    def __post_init__(self) -> None:
        if self.tokenizer not in get_args(Tokenizer):
            raise ValueError(f"tokenizer: must be one of {', '.join(get_args(Tokenizer))}, got {self.tokenizer!r}")

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> StoreSettings:
        """Read what ``to_json`` wrote.

        Raises:
            StoreCorruptError: If it is something else.
        """
        try:
            return cls(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise StoreCorruptError(f"the store's settings cannot be read: {error}") from error
