"""What is said of a change: the one place that turns intervals into words, for screens, reports and tables.

A change on clusters that were rewarded (or dreamt) is one of these clusters, so questions are drawn anew within them; a
change on others is one of clusters like them, so clusters are drawn (introspection/stats.py). Nothing is good news
where what was measured was hardly there, or where it rose because something else fell.
"""

from dataclasses import dataclass

import numpy as np

from introspection.stats import bootstrap_questions, estimate

ENOUGH = 20  # questions below which nothing is told
HARDLY = 0.5  # share of turns that must parse for their accuracy to say anything
GAP = 0.02  # accuracy that a point must add in context before a share of it can be closed


@dataclass(frozen=True)
class Verdict:
    """A change with its 95 % interval, the questions and clusters behind it, and what may be said of it."""

    mean: float
    low: float
    high: float
    questions: int
    where: str
    words: str

    def __str__(self) -> str:
        interval = f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{interval}, {self.questions} questions {self.where}: {self.words}"


def by_cluster(changes: dict[str, float], clusters: dict[str, str]) -> dict[str, list[float]]:
    """Changes by question as lists by cluster; those whose cluster is not known form one."""
    parts: dict[str, list[float]] = {}
    for question, change in changes.items():
        parts.setdefault(clusters.get(question, ""), []).append(change)
    return parts


def judge(seeds: list[dict[str, list[float]]], rewarded: bool, spoilt: str = "") -> Verdict:
    """What may be said of changes: for each seed, those of each cluster's questions, in the same order.

    rewarded: whether training saw these clusters. spoilt: why they say nothing good, whatever they are (`spoilt_by`).
    """
    clusters, questions = len(seeds[0]), sum(map(len, seeds[0].values()))
    if rewarded or clusters == 1:
        drawn = bootstrap_questions(seeds)
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        mean = float(np.mean([value for seed in seeds for values in seed.values() for value in values]))
    else:
        known = estimate(seeds, "")
        mean, low, high = known["mean"], known["low"], known["high"]
    kind = "trained" if rewarded else "never rewarded"
    where = f"on {'this' if clusters == 1 else 'these'} {clusters} {kind} cluster{'s' if clusters > 1 else ''}"
    if not rewarded and clusters > 1:
        where = f"over {clusters} clusters never rewarded"
    return Verdict(mean, low, high, questions, where, words_of(low, high, questions, spoilt))


def words_of(low: float, high: float, questions: int, spoilt: str = "") -> str:
    """What an interval of a change says."""
    if spoilt:
        return f"no good news: {spoilt}"
    if questions < ENOUGH:
        return "too few to tell"
    if low > 0:
        return "up"
    return "down" if high < 0 else "no measurable change"


def spoilt_by(parsed: dict[str, float | None]) -> str:
    """Why accuracies say nothing, by what share of turns parsed ('answers', 'points'); empty where they do."""
    failed = [
        f"{share:.0%} of the {what} parse" for what, share in parsed.items() if share is not None and share < HARDLY
    ]
    return " and ".join(f"only {part}" for part in failed)


def fell_without(told: Verdict, alone: Verdict) -> str:
    """Why an advantage that rose is no gain: answers without the point became worse, and those with it no better."""
    return "answers without a point became worse, those with one no better" if told.low <= 0 and alone.high < 0 else ""


def gap_closed(before: float, after: float, with_point: float) -> float | None:
    """(after - before) / (with the point before dreaming - before); None where the point adds at most GAP there."""
    gap = with_point - before
    return (after - before) / gap if gap > GAP else None


def gap_words(before: float, after: float, with_point: float) -> str:
    """How much of what a point gives in context is in the weights."""
    closed = gap_closed(before, after, with_point)
    if closed is not None:
        return f"gap closed {closed:+.2f}"
    if with_point < before - GAP:
        return "no good news: the point hurts in context"
    return "no gap to close"
