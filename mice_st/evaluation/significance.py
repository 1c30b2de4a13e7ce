"""Whether two systems differ by more than chance: paired tests over the same queries, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 20_000


@dataclass(frozen=True)
class Difference:
    """Two systems on the same queries.

    Attributes:
        mean: Mean of the second's figures minus the first's.
        queries: Number of queries.
        better: Queries on which the second is better.
        worse: Queries on which it is worse.
        randomisation: Two-sided p value of the paired randomisation test.
        t_test: Two-sided p value of the paired t-test.
    """

    mean: float
    queries: int
    better: int
    worse: int
    randomisation: float
    t_test: float


def compare_queries(first: Mapping[str, float], second: Mapping[str, float], seed: int = 0) -> Difference:
    """Test two systems query by query on one set; see ``compare_sets``."""
    return compare_sets([first], [second], seed)


def compare_sets(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], seed: int = 0
) -> Difference:
    """Test two systems query by query; what is tested is the mean over the sets of each set's mean difference.

    The randomisation test flips the signs of the differences: all flips of up to 14 queries, 20,000 drawn ones of more,
    so that the smallest p value is 1e-4. The t-test adds up the variances of the sets, with Welch's degrees of freedom;
    on one set it is the paired t-test. Two systems that agree on every query get p values of 1.

    Args:
        first: For each set, query id -> figure.
        second: The same of the other system.
        seed: Of the drawing.

    Raises:
        ImportError: If scipy is not installed; the message names the extra.
        ValueError: If the queries are not the same, or a set has fewer than two.
    """
    stats = _import_stats()
    differences = [_differences(one, other) for one, other in zip(first, second, strict=True)]
    total = sum(map(len, differences))
    # Scaled so that the mean over all queries is the mean of the sets' means.
    scaled = np.concatenate([values * (total / (len(differences) * len(values))) for values in differences])
    p_values = (1.0, 1.0)
    if scaled.any():
        flipped = stats.permutation_test(
            (scaled,),
            lambda values, axis: values.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, 2_000_000 // total),
            rng=np.random.default_rng(seed),
        )
        p_values = (float(flipped.pvalue), _t_test(stats, differences))
    better, worse = int((scaled > 0).sum()), int((scaled < 0).sum())
    return Difference(float(scaled.mean()), total, better, worse, *p_values)


def _differences(first: Mapping[str, float], second: Mapping[str, float]) -> np.ndarray:
    if first.keys() != second.keys():
        apart = sorted(first.keys() ^ second.keys())
        raise ValueError(f"{len(apart)} queries are only in one of the two; the first: {apart[0]!r}")
    if len(first) < 2:
        raise ValueError(f"a test needs two queries at least; there are {len(first)}")
    return np.array([second[query_id] - first[query_id] for query_id in first])


def _t_test(stats: Any, differences: Sequence[np.ndarray]) -> float:
    """Two-sided p value of the mean over the sets of the sets' means being 0."""
    if all(np.ptp(values) < 1e-12 for values in differences):
        return 0.0  # no variance: the t statistic is infinite
    parts = np.array([values.var(ddof=1) / len(values) for values in differences]) / len(differences) ** 2
    freedom = parts.sum() ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, differences, strict=True)
    )
    mean = np.mean([values.mean() for values in differences])
    return float(2 * stats.t.sf(abs(mean) / np.sqrt(parts.sum()), freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for how many there are, after Holm (1979): the k-th smallest of n is multiplied by n - k + 1.

    Returns:
        Corrected values in the order given, never above 1, never in another order than the uncorrected ones.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _import_stats() -> Any:
    """Import scipy.stats, or say how to get it."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError('significance needs scipy: pip install "mice-st[eval]"') from error
    return stats
