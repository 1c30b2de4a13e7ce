"""mice-st: Minimal Interaction Cross-Encoders for sentence-transformers.

Importing the package loads neither torch nor transformers: each name is imported when it is first used. Whatever touches the modelling
code registers MICE with transformers' Auto classes (``mice_st.modeling``), so that folders and Hub repositories of MICE load with the
installed code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mice_st.conversion.convert import convert
    from mice_st.cross_encoder import MiceCrossEncoder
    from mice_st.index import MiceIndex
    from mice_st.modeling.configuration_mice import MiceConfig
    from mice_st.modeling.layers_mice import DocumentStates
    from mice_st.modeling.modeling_mice import MiceForSequenceClassification

__version__ = "0.1.0"
__all__ = ["DocumentStates", "MiceConfig", "MiceCrossEncoder", "MiceForSequenceClassification", "MiceIndex", "convert"]

_MODULES = {
    "DocumentStates": "mice_st.modeling.layers_mice",
    "MiceConfig": "mice_st.modeling.configuration_mice",
    "MiceCrossEncoder": "mice_st.cross_encoder",
    "MiceForSequenceClassification": "mice_st.modeling.modeling_mice",
    "MiceIndex": "mice_st.index",
    "convert": "mice_st.conversion.convert",
}


def __getattr__(name: str) -> Any:
    """Import a name of the package when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
