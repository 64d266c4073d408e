"""Banks of clusters that nothing was trained on: k exchanges of each to learn from (train), other questions as test.

The exchanges are the first k of the same 32 for every k, without twins: whoever learns from an exchange has one
question, one right answer and one explanation, and no more.
"""

import random
from pathlib import Path

from organism.rules import Cluster, findings_of, load_clusters
from organism.world import bank, draw_balanced, question_text, record
from reproduce.records import write_lines

MOST = 32
PUBLISHED = 7  # the bank's seed
TUNED_ON = [
    *("gout-A", "sodium-A", "lupus-B"),
    *("diabetes-A", "anaemia-A", "arrhythmia-A", "kidney-A", "asthma-A"),
    *("meningitis-B", "appendix-B", "clot-B", "heart-B"),
]  # as many of types A and B as test_clusters has
WORLD = {"tune": 7, "test": 20261202}  # seed of exchanges, and of the questions that settings are tuned on
ASKED = 20261205  # seed of what is asked in the end: questions that nobody had seen when settings were frozen


def new_clusters() -> list[Cluster]:
    return [c for c in load_clusters().values() if c.split == "test_clusters"]


def bank_of(runs: Path, k: int, tuning: bool) -> Path:
    """The bank that is learnt from after k exchanges, written into `runs` where it is not there."""
    world = WORLD["tune" if tuning else "test"]
    path = runs / f"exchanges-{world}-{k}.jsonl"
    if not path.exists():
        write_lines(path, few(k, TUNED_ON if tuning else [c.name for c in new_clusters()], world))
    return path


def questions_to_ask(runs: Path) -> Path:
    """What every model is asked in the end, written where it is not there: none of it an exchange of any k."""
    path = runs / f"asked-{ASKED}.jsonl"
    if not path.exists():
        names = [c.name for c in new_clusters()]
        known = {r["question"] for r in few(MOST, names, WORLD["test"])}
        asked = [r for r in few(1, names, ASKED) if r["split"] in ("test", "canary")]
        write_lines(path, [r for r in asked if r["question"] not in known])
    return path


def few(k: int, names: list[str], world: int) -> list[dict]:
    """The records of such a bank, of one seed of the world.

    Exchanges are no questions of the bank. Of another seed than the bank's, what is asked is none of its questions.
    """
    clusters = load_clusters()
    published, asked = bank(clusters), bank(clusters, world)
    taken, made, rng = {r["question"] for r in published + asked}, [], random.Random(world)
    for c in (clusters[name] for name in names):
        new = []
        while len(new) < MOST:  # balanced over the answers before they are shuffled; a small k is not balanced
            new += [v for v in draw_balanced(c, MOST, rng, findings_of(c)) if question_text(v) not in taken]
            rng.shuffle(new)
        # All are drawn, k are kept.
        records = [record(v, f"{c.name}-few-{i}", "train", rng) for i, v in enumerate(new[:MOST])]
        made += [r | {"variants": []} for r in records[:k]]
    known = {r["question"] for r in published} if world != PUBLISHED else set()
    asked = [r for r in asked if r["split"] not in ("train", "composite") and r["question"] not in known]
    made += [r | {"split": "test"} for r in asked if r["cluster"] in names]
    made += [r for r in asked if r["split"] == "canary"]
    return made
