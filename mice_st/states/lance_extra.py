"""The packages of the extra ``lance``, or what to install; the other files of this engine take them from here."""

from __future__ import annotations

try:
    import lance
    import lance.fragment
    import pyarrow as pa  # type: ignore[import-untyped]  # ships none
    import pyarrow.compute as pc  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError("LanceStore needs the extra `lance`: pip install 'mice-st[lance]'") from error

__all__ = ["lance", "pa", "pc"]
