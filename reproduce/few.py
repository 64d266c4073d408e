"""A bank of clusters that nothing was trained on: k exchanges of each to learn from (train), other questions as test.

The exchanges are the first k of the same 32 for every k, without twins: whoever learns from an exchange has one
question, one right answer and one explanation, and no more.
"""

import random

from organism.rules import findings_of, load_clusters
from organism.world import bank, draw_balanced, question_text, record

MOST = 32
PUBLISHED = 7  # the bank's seed


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
