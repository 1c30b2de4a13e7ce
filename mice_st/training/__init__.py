"""Training re-rankers: rows, recipe, and sentence-transformers' trainer with its own losses."""

from mice_st.training.recipe import TrainingRecipe
from mice_st.training.trainer import TrainingResult, train

__all__ = ["TrainingRecipe", "TrainingResult", "train"]
