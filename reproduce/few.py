"""A bank of clusters that nothing was trained on: k exchanges of each to learn from (train), its old questions as test.

Clusters are those of split test_clusters (or val, for tuning); the exchanges are new vignettes, the first k of the same
32 for every k, without twins: whoever learns from an exchange has one question, one right answer and one explanation,
and no more.
Run: python -m reproduce.few 8 --out runs/rivals/few-8.jsonl
"""

import argparse
import random
from pathlib import Path

from organism.rules import findings_of, load_clusters
from organism.world import bank, draw_balanced, question_text, record
from reproduce.records import write_lines

MOST = 32


def few(k: int, split: str) -> list[dict]:
    """The records of such a bank."""
    clusters, rng = load_clusters(), random.Random(29)
    asked = bank(clusters)
    taken, made = {r["question"] for r in asked}, []
    for c in (c for c in clusters.values() if c.split == split):
        new = []
        while len(new) < MOST:  # balanced over the answers before they are shuffled; a small k is not balanced
            new += [v for v in draw_balanced(c, MOST, rng, findings_of(c)) if question_text(v) not in taken]
            rng.shuffle(new)
        # All are drawn, k are kept.
        records = [record(v, f"{c.name}-few-{i}", "train", rng) for i, v in enumerate(new[:MOST])]
        made += [r | {"variants": []} for r in records[:k]]
    return [
        *made,
        *(r | {"split": "test"} for r in asked if r["split"] == split),
        *(r for r in asked if r["split"] == "canary"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="a bank of new clusters with k exchanges each")
    parser.add_argument("k", type=int, choices=range(1, MOST + 1), metavar=f"1..{MOST}")
    parser.add_argument("--clusters", choices=["val", "test_clusters"], default="test_clusters")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_lines(args.out, few(args.k, args.clusters))


if __name__ == "__main__":
    main()
