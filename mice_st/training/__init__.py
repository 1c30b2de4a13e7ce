"""Training re-rankers: rows, recipe, and sentence-transformers' trainer with its own losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mice_st.training.recipe import TrainingRecipe
    from mice_st.training.settings import TrainingSettings
    from mice_st.training.trainer import TrainingResult, train

__all__ = ["TrainingRecipe", "TrainingResult", "TrainingSettings", "train"]


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: the command line reads recipes without loading torch."""
    from importlib import import_module

    modules = {
        "TrainingRecipe": "recipe",
        "TrainingSettings": "settings",
        "TrainingResult": "trainer",
        "train": "trainer",
    }
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
