"""Clusters and their hidden rules: what decides a question of the synthetic world, and what may be believed about it.

A cluster (an entry of clusters.yaml) owns one hidden *rule*; a vignette shows a *finding* x; `level(cluster, rule,
x)` is the index of the right option. Severity is an integer 0..90 for type A, a tuple of four booleans for B, an
index for C and D. Pre-training draws rules from two priors: `wide` (everything) where a document states its rule,
`narrow` (at least MARGIN away from the bank's rule) where it does not, so that nothing but an exchange can reveal a
bank rule.
"""

import itertools
import random
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zlib import crc32

import yaml

# Type A: no threshold of the narrow prior lies within this of the bank's; B, C: the rule is excluded; D: all but those
# that differ from it in two places.
MARGIN = 20
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
    fields = [{k: tuple(value) if isinstance(value, list) else value for k, value in e.items()} for e in entries]
    return {f["name"]: Cluster(**f) for f in fields}


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


def apart(c: Cluster, rule, x=None, bank=None) -> bool:
    """Whether a rule keeps the stated margin from the cluster's bank rule (or from another one)."""
    bank = bank_rule(c, x) if bank is None else bank
    if c.kind == "A":
        return all(abs(t - b) >= MARGIN for t, b in zip(rule, bank, strict=True))
    if c.kind == "D":
        return sum(r != b for r, b in zip(rule, bank, strict=True)) == 2
    return rule != bank


@cache
def narrow(c: Cluster, x=None) -> list:
    """Support of the prior of documents that do not state their rule; a canary cluster's rule is simply known.

    Which of the rules outside the margin are believed differs from cluster to cluster by a hash of its name: if
    belief stood in one fixed relation to the bank's rules, a writer could learn to turn its belief around and would
    need no exchange.
    """
    if c.split == "canary":
        return [bank_rule(c, x)]
    rules = [r for r in wide(c, x) if apart(c, r, x)]
    draw = random.Random(crc32(f"{c.name} {x if c.kind == 'C' else ''}".encode()))
    if c.kind == "A":  # one side of the bank's rule only, so that the prior is a belief and not a hole
        above = [r for r in rules if r[0] > bank_rule(c)[0] and r[1] > bank_rule(c)[1]]
        below = [r for r in rules if r[0] < bank_rule(c)[0] and r[1] < bank_rule(c)[1]]
        rules = draw.choice([side for side in (above, below) if len(side) > 2] or [max(above, below, key=len)])
    size = {"A": max(2, len(rules) // 2), "B": 3, "C": 2, "D": 2}[c.kind]
    return sorted(draw.sample(rules, min(size, len(rules))))


def open_prior(c: Cluster, x) -> list:
    """Rules of an exchange that reveals an answer but whose point does not state the rule: the bank's is left out."""
    return [r for r in wide(c, x) if apart(c, r, x)] if c.split != "canary" else narrow(c, x)


def stated_prior(c: Cluster, quality: str, x) -> list:
    """The prior from which a document draws its rule, by what its learning point states."""
    if c.split == "canary":
        return narrow(c, x)
    return wide(c, x) if quality in ("ideal", "wrong") else narrow(c, x)


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
    """Probability of the right (bank) option under the narrow prior: accuracy of a perfect reader without a point."""
    gold, rules = level(c, bank_rule(c, x), x), narrow(c, x)
    return sum(level(c, r, x) == gold for r in rules) / len(rules)


def question_weights(c: Cluster, rule=None) -> dict:
    """How often a question of the cluster has each finding, if the rule holds: every right option equally often."""
    by_level: dict[int, list] = {}
    for x in findings_of(c):
        by_level.setdefault(level(c, bank_rule(c, x) if rule is None else rule, x), []).append(x)
    return {x: 1 / len(by_level) / len(xs) for xs in by_level.values() for x in xs}


def guess(c: Cluster, rule, possible, weights: dict) -> float:
    """Accuracy, if `rule` holds, of picking the option that most of the possible rules name."""
    named = likeliest(c, frozenset(possible))
    return sum(w * (level(c, rule, x) in named[x]) / len(named[x]) for x, w in weights.items())


@cache
def likeliest(c: Cluster, possible: frozenset) -> dict:
    """{finding: options that most of the possible rules name}."""
    named = {}
    for x in findings_of(c):
        votes = Counter(level(c, r, x) for r in possible)
        named[x] = [option for option, n in votes.items() if n == max(votes.values())]
    return named


def after_exchanges(c: Cluster, rule, n: int) -> dict[frozenset, float]:
    """Sets of rules that n revealed answers leave possible, with their probabilities, if `rule` holds."""
    rules, revealed = wide(c), {}  # what one exchange leaves possible: few sets, however many findings there are
    for x, weight in question_weights(c, rule).items():
        left = frozenset(r for r in rules if level(c, r, x) == level(c, rule, x))
        revealed[left] = revealed.get(left, 0.0) + weight
    believed = {frozenset(rules): 1.0}
    for _ in range(n):
        after: dict[frozenset, float] = {}
        for possible, p in believed.items():
            for left, weight in revealed.items():
                kept = possible & left
                after[kept] = after.get(kept, 0.0) + p * weight
        believed = after
    return believed


@cache
def ceiling(c: Cluster, exchanges: int, explained: bool = False) -> float:
    """Bayes-optimal accuracy on another question of the cluster, given exactly what `exchanges` exchanges revealed.

    Mean over true rules drawn from the wide prior, which is also what the reader believes until a revealed answer
    excludes a rule. An explanation states the rule. A stand-alone fact (type C) is known once its subject has been
    asked about.
    """
    if c.kind == "C":
        known = 1 - (1 - 1 / len(findings_of(c))) ** exchanges
        return known + (1 - known) / 4
    if explained and exchanges:
        return 1.0
    total = 0.0
    for rule in wide(c):
        weights = question_weights(c, rule)
        total += sum(
            p * guess(c, rule, possible, weights) for possible, p in after_exchanges(c, rule, exchanges).items()
        )
    return total / len(wide(c))


def mean_ceiling(clusters: list[Cluster], exchanges: int, explained: bool = False) -> float:
    return sum(ceiling(c, exchanges, explained) for c in clusters) / len(clusters)


def turned_around(c: Cluster) -> float:
    """Accuracy on the bank without any exchange, by believing in every rule outside the margin of all believed ones.

    What a writer could learn about how the bank was made; blind writers measure it.
    """
    if c.kind == "C":
        return sum(1 / (4 - len(narrow(c, x))) for x in findings_of(c)) / len(findings_of(c))
    possible = [r for r in wide(c) if all(apart(c, r, bank=n) for n in narrow(c))] or wide(c)
    return guess(c, bank_rule(c), possible, question_weights(c))


def findings_of(c: Cluster) -> list:
    """Every possible deciding finding of a cluster."""
    if c.kind == "A":
        return SEVERITIES
    if c.kind == "B":
        return list(itertools.product([False, True], repeat=4))
    return list(range(len(c.subjects or c.features)))
