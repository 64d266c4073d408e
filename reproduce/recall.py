"""Puts the evaluation of reproduce/recall.sh together: results/recall.json and recall_table.md, with what is new about recalled texts.

Novelty (table T8): of the texts recalled for composites, how many say both hidden rules, how many have a parent in the library for
each of their clusters, and how many stand in the library word by word.
"""

import json
import re
import sys
from pathlib import Path

from introspection import library
from organism import rules, world


def says_rule(text: str, cluster: rules.Cluster) -> bool:
    """Whether a text names both thresholds, or both signs, of a cluster's hidden rule (composites are of types A and B)."""
    words = world.rule_words(cluster, rules.bank_rule(cluster))
    said = (
        rf"(?<![\d/]){re.escape(word)}(?![\d/])" for name, word in words.items() if name in ("t1", "t2", "s1", "s2")
    )
    return all(re.search(word, text) for word in said)


def shares(text: str, records: list[dict], cluster: str) -> bool:
    """Whether half of the words of some library point of a cluster stand in the text."""
    said = set(library.essence(text).split())
    parts = [set(library.essence(r["text"]).split()) for r in records if r["cluster"] == cluster]
    return any(len(part & said) >= 0.5 * len(part) for part in parts)


def novelty(units: list[dict], records: list[dict]) -> dict:
    clusters, known = rules.load_clusters(), {library.essence(r["text"]) for r in records}
    texts = [
        (r["text"], r["cluster"].split("+"))
        for u in units
        if (u["split"], u["condition"], u["reader"]) == ("composite", "recalled", "start")
        for r in u["questions"]
        if r.get("text")
    ]
    counts = {
        "texts": len(texts),
        "a parent in the library for both clusters": sum(
            all(shares(text, records, c) for c in both) for text, both in texts
        ),
        "both rules said": sum(all(says_rule(text, clusters[c]) for c in both) for text, both in texts),
        "in no training point": sum(library.essence(text) not in known for text, _ in texts),
    }
    return counts | {"examples": [{"clusters": "+".join(both), "text": text} for text, both in texts[:10]]}


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    units = [json.loads(line) for line in (runs / "eval/results.jsonl").read_text().splitlines()]
    result = {
        "summary": json.loads((runs / "eval/summary.json").read_text()), "novelty": novelty(units, library.load_library(runs / "library.jsonl")),
        "table": json.loads((runs / "eval/table.json").read_text()),
    }  # fmt: skip
    (out / "recall.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "recall_table.md").write_text((runs / "eval/table.md").read_text())
    print(f"wrote {out}/recall.json, {out}/recall_table.md")
