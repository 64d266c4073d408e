"""Clusters and their hidden rules: what decides a question of the synthetic world, and what may be believed about it.

A cluster (an entry of clusters.yaml) owns one hidden *rule*; a vignette shows a *finding* x; `level(cluster, rule, x)` is
the index of the right option. Severity is an integer 0..90 for type A, a tuple of four booleans for B, an index for C and D.
Pre-training draws rules from two priors: `wide` (everything) where a document states its rule, `narrow` (at least MARGIN
away from the bank's rule) where it does not, so that nothing but an exchange can reveal a bank rule.
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

MARGIN = 20  # type A: no threshold of the narrow prior lies within this of the bank's; B, C, D: the rule is excluded
SEVERITIES = [x for x in range(1, 90) if x % 10 in (2, 5, 8)]  # never on a threshold, so 'from' and 'above' agree


@dataclass(frozen=True)
class Cluster:
    """One entry of clusters.yaml; `kind` is A, B, C or D; unused fields of a kind stay empty."""

    name: str
    split: str
    topic: str
    who: str
    rule: tuple
    options: tuple
    value: str = ""
    low: int = 0
    pair: bool = False
    falls: bool = False
    signs: tuple = ()
    subjects: tuple = ()
    features: tuple = ()

    @property
    def kind(self) -> str:
        return self.name[-1]


@dataclass(frozen=True)
class Vignette:
    """What a question shows: the cluster, the deciding finding x, and everything that does not decide."""

    cluster: Cluster
    x: object
    phrasing: int
    extra: str
    sign_order: tuple = (0, 1, 2, 3)


def load_clusters() -> dict[str, Cluster]:
    entries = yaml.safe_load(Path(__file__).with_name("clusters.yaml").read_text())
    return {e["name"]: Cluster(**{k: tuple(v) if isinstance(v, list) else v for k, v in e.items()}) for e in entries}


def bank_rule(c: Cluster, x=None):
    """The hidden rule: A (t1, t2) in severity; B a pair of signs; C (subject, option); D the option of each feature."""
    if c.kind == "A":
        return tuple(c.low + 90 - t if c.falls else t - c.low for t in c.rule)
    return (x, c.rule[x]) if c.kind == "C" else c.rule


def wide(c: Cluster, x=None) -> list:
    """Every rule that a cluster could have (uniform prior of documents that state their rule)."""
    if c.kind == "A":
        return [(a, b) for a in range(10, 90, 10) for b in range(a + 20, 90, 10)]
    if c.kind == "B":
        return list(itertools.combinations(range(4), 2))
    if c.kind == "C":
        return [(x, option) for option in range(4)]
    return list(itertools.permutations(range(3)))


def apart(c: Cluster, rule, x=None) -> bool:
    """Whether a rule keeps the stated margin from the cluster's bank rule."""
    bank = bank_rule(c, x)
    if c.kind == "A":
        return all(abs(t - b) >= MARGIN for t, b in zip(rule, bank, strict=True))
    if c.kind == "D":
        return sum(r != b for r, b in zip(rule, bank, strict=True)) == 2
    return rule != bank


def narrow(c: Cluster, x=None) -> list:
    """Support of the prior of documents that do not state their rule; a canary cluster's rule is simply known."""
    if c.split == "canary":
        return [bank_rule(c, x)]
    rules = [r for r in wide(c, x) if apart(c, r, x)]
    if c.kind == "A":  # one side of the bank's rule only, so that the prior is a belief and not a hole
        above = [r for r in rules if r[0] > bank_rule(c)[0] and r[1] > bank_rule(c)[1]]
        below = [r for r in rules if r[0] < bank_rule(c)[0] and r[1] < bank_rule(c)[1]]
        rules = max(above, below, key=len)
    if c.kind == "B":
        rules = [r for r in rules if bank_rule(c)[0] not in r]
    return rules


def level(c: Cluster, rule, x) -> int:
    """Index of the right option for finding x under a rule."""
    if c.kind == "A":
        return sum(x > t for t in rule)
    if c.kind == "B":
        return sum(x[sign] for sign in rule)
    if c.kind == "C":
        return rule[1]
    return rule[x]


def prior_predictive(c: Cluster, x) -> float:
    """Probability of the right (bank) option under the narrow prior: the accuracy of a perfect reader without a point."""
    gold, rules = level(c, bank_rule(c, x), x), narrow(c, x)
    return sum(level(c, r, x) == gold for r in rules) / len(rules)


def question_weights(c: Cluster) -> dict:
    """How often a bank question of the cluster has each finding: every right option equally often."""
    by_level: dict[int, list] = {}
    for x in findings_of(c):
        by_level.setdefault(level(c, bank_rule(c, x), x), []).append(x)
    return {x: 1 / len(by_level) / len(xs) for xs in by_level.values() for x in xs}


def ceiling(c: Cluster, exchanges: int, explained: bool = False) -> float:
    """Bayes-optimal accuracy on another question of the cluster, given exactly what `exchanges` exchanges revealed.

    The reader believes in every rule of the wide prior until a revealed answer excludes it, and picks the likeliest option.
    An explanation states the rule. Stand-alone facts (type C) say nothing about each other.
    """
    if c.kind == "C":
        return 0.25
    weights, bank = question_weights(c), bank_rule(c)
    believed = {frozenset([bank] if explained and exchanges else wide(c)): 1.0}  # set of rules that are still possible: its probability
    for _ in range(exchanges):
        after: dict[frozenset, float] = {}
        for possible, p in believed.items():
            for x, weight in weights.items():
                kept = frozenset(r for r in possible if level(c, r, x) == level(c, bank, x))
                after[kept] = after.get(kept, 0.0) + p * weight
        believed = after
    total = 0.0
    for possible, p in believed.items():
        for x, weight in weights.items():
            votes = Counter(level(c, r, x) for r in possible)
            best = [option for option, n in votes.items() if n == max(votes.values())]
            total += p * weight * (level(c, bank, x) in best) / len(best)
    return total


def findings_of(c: Cluster) -> list:
    """Every possible deciding finding of a cluster."""
    if c.kind == "A":
        return SEVERITIES
    if c.kind == "B":
        return list(itertools.product([False, True], repeat=4))
    return list(range(len(c.subjects or c.features)))
