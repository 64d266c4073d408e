"""Intervals and tests: what is said of accuracies with and without a point, and with how much certainty.

The unit of inference is the cluster, averaged over training seeds; intervals are bootstraps over seeds > clusters >
questions, and t intervals below FEW clusters and where seeds differ more than clusters (reproduce/coverage.py measures
both). A record is what an evaluation says of a question (or pair of questions): `question_id`, `cluster`, `with`,
`without`.
"""

import numpy as np

FEW = 12  # clusters; with fewer a bootstrap's intervals are too narrow
DEGREES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 60, 1e9)
T_QUANTILES = {
    "0.975": (
        12.706,
        4.303,
        3.182,
        2.776,
        2.571,
        2.447,
        2.365,
        2.306,
        2.262,
        2.228,
        2.179,
        2.131,
        2.086,
        2.042,
        2.0,
        1.96,
    ),
    "0.95": (
        6.314,
        2.920,
        2.353,
        2.132,
        2.015,
        1.943,
        1.895,
        1.860,
        1.833,
        1.812,
        1.782,
        1.753,
        1.725,
        1.697,
        1.671,
        1.645,
    ),
}


def mean(values) -> float | None:
    """The mean of what was measured: None and NaN are left out; None of nothing."""
    kept = [value for value in values if value is not None and value == value]
    return sum(kept) / len(kept) if kept else None


# ---- intervals -----------------------------------------------------------------------------------------------------
def bootstrap_mean(values: np.ndarray, seed: int = 0, resamples: int = 4000) -> tuple[float, float, float]:
    """(mean, low, high): 95 % percentile bootstrap over the entries of `values` (n,), one entry per question."""
    values = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def bootstrap_clusters(seeds: list[dict[str, list[float]]], resamples: int = 2000) -> np.ndarray:
    """Means (resamples,) of a bootstrap that draws seeds, then clusters, then questions (the cluster is the unit).

    seeds: for each training seed, the values of each cluster's questions; every seed has the same questions, in the
    same order. A cluster counts once, however many questions it has. Clusters and questions are crossed with seeds: a
    draw takes the same ones for all seeds, or more seeds would seem to be more questions.
    """
    draw, clusters, means = np.random.default_rng(0), sorted(seeds[0]), np.zeros(resamples)
    sizes = np.array([len(seeds[0][cluster]) for cluster in clusters])  # (C,)
    drawn = draw.integers(len(clusters), size=(resamples, len(clusters)))  # (R, C)
    available = sizes[drawn][..., None]  # (R, C, 1)
    questions = (draw.random((*drawn.shape, sizes.max())) * available).astype(int)  # (R, C, Q), with replacement
    inside = np.arange(sizes.max()) < available  # a cluster with fewer questions draws fewer
    times = draw.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples)  # (R, S)
    for s, seed in enumerate(seeds):
        values = np.zeros((len(clusters), sizes.max()))
        for c, cluster in enumerate(clusters):
            values[c, : sizes[c]] = seed[cluster]
        picked = np.where(inside, values[drawn[..., None], questions], 0.0).sum(axis=2) / sizes[drawn]  # (R, C)
        means += times[:, s] / len(seeds) * picked.mean(axis=1)
    return means


def bootstrap_pairs(seeds: list[dict[str, list[float]]], resamples: int = 2000) -> np.ndarray:
    """The same for composites, whose clusters are pairs 'a+b': what is drawn are the parents, because pairs share them.

    A pair weighs the product of how often its parents were drawn; seeds are crossed as above.
    """
    draw, pairs = np.random.default_rng(0), sorted(seeds[0])
    parents = sorted({parent for pair in pairs for parent in pair.split("+")})
    names = [pair.split("+") for pair in pairs]
    places = np.array([[parents.index(name[0]), parents.index(name[-1])] for name in names])  # (pairs, 2)
    times = draw.multinomial(len(parents), np.full(len(parents), 1 / len(parents)), size=resamples)  # (R, parents)
    weights = times[:, places[:, 0]] * times[:, places[:, 1]]  # (R, pairs)
    values = np.array([[np.mean(seed[pair]) for pair in pairs] for seed in seeds])  # (S, pairs)
    drawn = draw.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples) / len(seeds)  # (R, S)
    kept = weights.sum(1) > 0
    return ((drawn @ values)[kept] * weights[kept]).sum(1) / weights[kept].sum(1)


def error_parts(seeds: list[dict[str, list[float]]]) -> list[tuple[float, int]]:
    """(squared standard error of the mean, degrees of freedom) by clusters and by seeds, where there are several."""
    table = np.array([[np.mean(seed[cluster]) for cluster in sorted(seed)] for seed in seeds])  # (S, C)
    means = (table.mean(0), table.mean(1))
    return [(float(part.var(ddof=1)) / len(part), len(part) - 1) for part in means if len(part) > 1]


def few_clusters(seeds: list[dict[str, list[float]]]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of the mean over C clusters, averaged over S seeds; C at least 2.

    Clusters and seeds are crossed: the error is s_C^2 / C + s_S^2 / S of their means, which counts what they share
    twice and so errs on the wide side; the degrees of freedom are Satterthwaite's.
    """
    parts = error_parts(seeds)
    squared = sum(part for part, _ in parts)
    freedom = sum(part**2 / degrees for part, degrees in parts)
    return float(squared**0.5), float(squared**2 / freedom) if freedom else float(len(seeds[0]) - 1)


def seeds_differ_more(seeds: list[dict[str, list[float]]]) -> bool:
    """Whether the mean is less certain by its seeds than by its clusters: a bootstrap of three seeds hardly goes beyond
    the lowest and the highest of them.
    """
    parts = error_parts(seeds)
    return len(parts) > 1 and parts[1][0] > parts[0][0]


def t_quantile(level: str, freedom: float) -> float:
    """Student's quantile at 0.975 or 0.95, linear in 1 / degrees of freedom between the table's."""
    return float(np.interp(1 / freedom, 1 / np.array(DEGREES)[::-1], np.array(T_QUANTILES[level])[::-1]))


def bootstrap_questions(seeds: list[dict[str, list[float]]], resamples: int = 4000) -> np.ndarray:
    """Means (resamples,) over questions, averaged over seeds, that were drawn anew within each cluster: what is said
    holds for these clusters.
    """
    draw, drawn = np.random.default_rng(0), np.zeros(resamples)
    questions = 0
    for cluster in sorted(seeds[0]):
        values = np.mean([seed[cluster] for seed in seeds], axis=0)  # (Q,)
        drawn += values[draw.integers(len(values), size=(resamples, len(values)))].sum(axis=1)
        questions += len(values)
    return drawn / questions


def cluster_means(seeds: list[dict[str, list[float]]]) -> np.ndarray:
    """One value per cluster (C,): the mean over its questions, then over seeds."""
    return np.array([np.mean([np.mean(seed[cluster]) for seed in seeds]) for cluster in sorted(seeds[0])])


def holm(ps: list[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    order, adjusted, highest = np.argsort(ps), [0.0] * len(ps), 0.0
    for k, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - k) * ps[i]))
        adjusted[i] = highest
    return adjusted


def sign_flip(values: np.ndarray, draws: int = 20_000) -> float:
    """Two-sided p of 'the mean is 0' by flipping the signs of the entries (n,).

    All flips up to n = 14, random ones beyond.
    """
    n = len(values)
    if n <= 14:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.vstack(
            [np.ones((1, n), dtype=int), 1 - 2 * np.random.default_rng(0).integers(0, 2, size=(draws, n))]
        )
    flipped = np.abs(signs @ values)
    return float(np.mean(flipped >= abs(values.sum()) - 1e-12))


def estimate(seeds: list[dict[str, list[float]]], split: str) -> dict:
    """Mean over clusters, 95 % interval, the one-sided 95 % bounds that non-inferiority asks for, and p of 'the mean is
    0'.

    Composites share their parents: they are drawn by parents, and sign flips of pairs would say too much (p None).
    """
    pairs = split == "composite" and all("+" in name for name in seeds[0])  # in table transfer the unit is a question
    means = cluster_means(seeds)
    mean = float(means.mean())
    if not pairs and len(means) > 1 and (len(means) < FEW or seeds_differ_more(seeds)):
        error, freedom = few_clusters(seeds)
        wide, narrow = (error * t_quantile(level, freedom) for level in ("0.975", "0.95"))
        low, high, lower, upper = mean - wide, mean + wide, mean - narrow, mean + narrow
    else:
        resampled = bootstrap_pairs(seeds) if pairs else bootstrap_clusters(seeds)
        low, high, lower, upper = np.quantile(resampled, [0.025, 0.975, 0.05, 0.95]).tolist()
    bounds = {"low": low, "high": high, "lower_bound": lower, "upper_bound": upper}
    return {"mean": mean, **bounds, "p": None if pairs else sign_flip(means)}
