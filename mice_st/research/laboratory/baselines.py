"""Baselines of a masked cross-encoder and MICE, all made from one checkpoint and measured on the same pairs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from tqdm.auto import tqdm

from mice_st.conversion.convert import convert
from mice_st.evaluation.metrics import evaluate_run
from mice_st.loading import load_model, model_kind
from mice_st.modeling.configuration_mice import SUFFIXES
from mice_st.research.laboratory.experiment import Experiment, Retraining
from mice_st.research.laboratory.ladder import count_layers, describe, load_masked, require_classifier
from mice_st.research.laboratory.vectors import train_vectors
from mice_st.research.masking import make_preset

VECTORS = {"colbert": MultiVectorEncoder, "bi-encoder": SentenceTransformer}
PRESET = re.compile(r"full|mask[012]|sparse-ce|(mask3|prettr)-l\d+")
MICE = re.compile(r"mice-l(\d+)(?:-d(\d+))?\+(\d+)((?:-[a-z0-9]+)*)")


def measure_baselines(
    source: str,
    names: Sequence[str],
    experiment: Experiment,
    retraining: Retraining | None,
    output: Path,
    max_length: int | None = None,
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """Make each system from the source, train it where wanted, and re-rank the same candidates.

    Args:
        source: Folder or Hub id of the cross-encoder.
        names: A masking preset (``full``, ``prettr-l4``, ``sparse-ce``, ...); the name of a MICE configuration
            (``mice-l4+3``, ``mice-l4+3-lex``; ``mice-l10-d12+2`` is MORES); ``colbert``; ``bi-encoder``; or folder or Hub
            id of any model, which is measured as it is.
        experiment: What to measure, and to train, on.
        retraining: How to train what is made from the source; None trains nothing.
        output: Folder for the trained models.
        max_length: Longest pair (or document), in tokens; None takes the model's own.
        trust_remote_code: Whether code beside the weights of other models is run.

    Returns:
        For each name ``step`` (the name), ``ndcg@10``, ``mrr@10``, ``training_steps`` and ``ms_per_query`` (scoring and the
        encoding of documents together).

    Raises:
        FileNotFoundError: If a name is neither of a system nor of a model.
        ValueError: If a system would rank at random because nothing is trained.
    """
    check_baselines(source, names, retraining is not None)
    rows = []
    for name in tqdm(names, "Baselines", unit="system", delay=2, leave=False):
        model = make_baseline(source, name, max_length, trust_remote_code)
        is_made = PRESET.fullmatch(name) or name.startswith("mice-l") or name in VECTORS
        steps = 0
        if retraining is not None and is_made:
            train = Retraining.train if isinstance(model, CrossEncoder) else train_vectors
            steps = train(retraining, model, experiment, output / name)
        evaluator = experiment.evaluator
        began = time.perf_counter()
        run = evaluator.rerank(model)
        milliseconds = 1000 * (time.perf_counter() - began) / max(1, len(run))
        figures = evaluate_run(evaluator.collection.qrels, run)
        rows.append({**describe(name, figures), "training_steps": steps, "ms_per_query": milliseconds})
    return rows


def check_baselines(source: str, names: Sequence[str], is_trained: bool) -> None:
    """Refuse names that are none, before anything takes long.

    Raises:
        FileNotFoundError: If a name is neither of a system nor of a model.
        ValueError: If a system is not possible with this source, or would rank at random because nothing is trained.
    """
    for name in names:
        if PRESET.fullmatch(name):
            make_preset(name, count_layers(source))
            if not is_trained:
                require_classifier(source)
        elif name.startswith("mice-l"):
            parse_mice_name(name)
        elif name not in VECTORS:
            model_kind(name)
        elif not is_trained:
            raise ValueError(
                f"{name}: a cross-encoder's layers are no encoder of single texts until they are trained; give "
                "--train-steps or --train-seconds, or the folder of a trained model in its place"
            )


def make_baseline(source: str, name: str, max_length: int | None, trust_remote_code: bool = False) -> Any:
    """One system, from the source's weights or from a folder of its own; see ``measure_baselines``."""
    if PRESET.fullmatch(name):
        return load_masked(source, name, max_length)
    if name.startswith("mice-l"):
        return convert(source, **parse_mice_name(name))[0]
    if name in VECTORS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = VECTORS[name](source)
        if max_length is not None:
            model.max_seq_length = max_length
        return model
    return load_model(name, max_length=max_length, trust_remote_code=trust_remote_code)


def parse_mice_name(name: str) -> dict[str, Any]:
    """``MiceConfig.name`` read backwards: the arguments of ``convert`` that make a model of that name.

    Raises:
        ValueError: If it is no such name; names the suffix that is unknown.
    """
    match = MICE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name}: a MICE model is called mice-l4+3, mice-l4-d6+3 or mice-l4+3-lex, and so on")
    fields: dict[str, Any] = {"contextualization_layers": int(match[1]), "interaction_layers": int(match[3])}
    if match[2]:
        fields["document_contextualization_layers"] = int(match[2])
    known = {suffix: (field, value) for field, value, suffix in SUFFIXES}
    for suffix in match[4].split("-")[1:]:
        if (width := re.fullmatch(r"w(\d+)", suffix)) is not None:
            fields["interaction_hidden_size"] = int(width[1])
        elif suffix in known:
            fields[known[suffix][0]] = known[suffix][1]
        else:
            raise ValueError(f"{name}: there is no suffix {suffix!r}; there are {', '.join(known)}, and w with a width")
    return fields
