"""Puts the evaluation of reproduce/recall.sh together: results/recall.json and recall_table.md, with what is new about recalled texts.

Novelty (table T8): of the texts recalled for composites, how many say both hidden rules, how many have a parent in the library for
each of their clusters, and how many stand in the library word by word.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import library
import measure
from organism import rules, world


def says_rule(text: str, cluster: rules.Cluster) -> bool:
    """Whether a text names both thresholds, or both signs, of a cluster's hidden rule (composites are of types A and B)."""
    words = world.rule_words(cluster, rules.bank_rule(cluster))
    said = (rf"(?<![\d/]){re.escape(word)}(?![\d/])" for name, word in words.items() if name in ("t1", "t2", "s1", "s2"))
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
        "a parent in the library for both clusters": sum(all(shares(text, records, c) for c in both) for text, both in texts),
        "both rules said": sum(all(says_rule(text, clusters[c]) for c in both) for text, both in texts),
        "in no training point": sum(library.essence(text) not in known for text, _ in texts),
    }
    return counts | {"examples": [{"clusters": "+".join(both), "text": text} for text, both in texts[:10]]}


def by_cluster(unit: dict) -> dict[str, dict[str, float]]:
    """What the recalled text is worth to a question beyond no point, by cluster and question."""
    found: dict[str, dict[str, float]] = {}
    for r in unit["questions"]:
        found.setdefault(r["cluster"], {})[r["question_id"]] = r["with"] - r["without"]
    return found


def changes(plain: list[dict], joined: list[dict]) -> list[dict]:
    """What joined targets change, by split and reader: gain of recalled texts, question by question, seeds paired in their order."""
    rows = []
    for split in dict.fromkeys(u["split"] for u in joined):
        for reader in ("start", "own"):
            sides = []
            for units in (plain, joined):
                sides.append(
                    [by_cluster(u) for u in units if (u["split"], u["condition"]) == (split, "recalled") and (u["reader"] == "start") == (reader == "start")]
                )
            seeds = [{c: [b[c][q] - a[c][q] for q in part] for c, part in a.items()} for a, b in zip(*sides, strict=True)]
            rows.append({"split": split, "reader": reader} | measure.estimate(seeds, split))
    return rows


def evaluated(folder: Path, records: list[dict]) -> tuple[list[dict], dict]:
    """(units, what results/recall.json says of them) of a run of eval.py."""
    units = [json.loads(line) for line in (folder / "eval/results.jsonl").read_text().splitlines()]
    read = {name: json.loads((folder / f"eval/{name}.json").read_text()) for name in ("summary", "table")}
    return units, {"summary": read["summary"], "novelty": novelty(units, records), "table": read["table"]}


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    records = library.load_library(runs / "library.jsonl")
    (plain, result), (joined, other) = (evaluated(folder, records) for folder in (runs, runs / "joined"))
    result["joined"] = other | {"changes": changes(plain, joined)}
    (out / "recall.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, folder in (("recall_table", runs), ("recall_joined", runs / "joined")):
        (out / f"{name}.md").write_text((folder / "eval/table.md").read_text())
    for c in result["joined"]["changes"]:
        print(f"joined minus not, gain of recalled texts on {c['split']}, {c['reader']} reader: {c['mean']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]")
    print(f"wrote {out}/recall.json, recall_table.md, recall_joined.md")
