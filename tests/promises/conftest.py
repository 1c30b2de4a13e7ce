"""Models for tests that change them: every call of a factory loads one anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder, convert

sys.path.insert(0, str(Path(__file__).parents[2]))

ModelFactory = Callable[..., CrossEncoder]


@pytest.fixture
def load(mice_folder: Path) -> Callable[..., MiceCrossEncoder]:
    """``load(folder)``: a ``MiceCrossEncoder`` of one's own."""

    def make(folder: Path = mice_folder, **kwargs: Any) -> MiceCrossEncoder:
        return MiceCrossEncoder(str(folder), device="cpu", **kwargs)

    return make


@pytest.fixture
def load_plain(mice_folder: Path) -> Callable[..., CrossEncoder]:
    """``load_plain(folder)``: sentence-transformers' own class."""

    def make(folder: Path = mice_folder, **kwargs: Any) -> CrossEncoder:
        return CrossEncoder(str(folder), trust_remote_code=True, device="cpu", **kwargs)

    return make


@pytest.fixture(params=["MiceCrossEncoder", "CrossEncoder"])
def load_either(request: pytest.FixtureRequest, load: ModelFactory, load_plain: ModelFactory) -> ModelFactory:
    """Either class."""
    return load if request.param == "MiceCrossEncoder" else load_plain


@pytest.fixture(scope="session")
def max_sim_folder(
    embedding_folder: Path, shake: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """MICE from an embedding model: both residuals and a weight for every token of the vocabulary."""
    folder = tmp_path_factory.mktemp("max-sim")
    model, _ = convert(embedding_folder, interaction_layers=1, max_sim_residual=True)
    shake(model, seed=5)
    model.mice.pooled_residual_log_scale.data.fill_(0.0)
    model.mice.max_sim_residual.log_scale.data.fill_(0.0)
    model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def modernbert_folder(shake: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MICE on a pre-norm backbone, whose feed-forward is gated and whose attention turns its keys."""
    from tests.modeling.backbones import save_cross_encoder

    source = save_cross_encoder("modernbert", tmp_path_factory.mktemp("modernbert-source"), shake)
    folder = tmp_path_factory.mktemp("modernbert")
    model, _ = convert(source, 2, 2, query_max_length=16, document_max_length=32)
    model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def base_scores(mice: MiceCrossEncoder) -> np.ndarray:
    """Scores of ``mice_folder`` as it is, for the queries and documents of ``one_score``."""
    from tests.promises.one_score import padded_scores

    return padded_scores(mice)


@pytest.fixture(scope="session")
def fork_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """``fork_python(code, *arguments, without_mice_st)``: what a process prints that has loaded the libraries alone."""
    from tests.promises.fresh_loads import FreshProcesses

    with FreshProcesses(tmp_path_factory.mktemp("forked")) as processes:
        yield processes.run


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)
