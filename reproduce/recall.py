"""What reproduce/recall.sh needs beside the stages: questions that nobody was tuned on, and the table (T8).

  questions SEED OUT   the bank's train and val questions as they are, all others of another seed of the world
  table RUNS OUT       recall.json, recall_table.md

Novelty, what is new about recalled texts: of those recalled for composites, how many say both hidden rules, how many
have a parent in the library for each of their clusters, and how many stand in the library word by word.
"""

import json
import re
import sys
from pathlib import Path

from introspection import library
from organism import rules, world
from reproduce.records import read_lines, write_lines, write_records


def says_rule(text: str, cluster: rules.Cluster) -> bool:
    """Whether a text names both thresholds, or both signs, of a cluster's hidden rule (types A and B)."""
    words = world.rule_words(cluster, rules.bank_rule(cluster))
    deciding = [words[name] for name in ("t1", "t2", "s1", "s2") if name in words]
    return all(re.search(rf"(?<![\d/]){re.escape(word)}(?![\d/])", text) for word in deciding)


def content_words(text: str) -> set[str]:
    return set(library.essence(text).split()) - {"a", "from", "or", "to", "with"}  # in all points, whatever they say


def shares(text: str, records: list[dict], cluster: str) -> bool:
    """Whether half of the words of some library point of a cluster stand in the text."""
    said = content_words(text)
    parts = [content_words(r["text"]) for r in records if r["cluster"] == cluster]
    return any(len(part & said) >= 0.5 * len(part) for part in parts)


def novelty(units: list[dict], records: list[dict]) -> dict:
    """The counts that are described at the top, with ten examples."""
    clusters, known = rules.load_clusters(), {library.essence(r["text"]) for r in records}
    asked = {"split": "composite", "condition": "recalled", "reader": "start"}
    answers = [r for u in units if asked.items() <= u.items() for r in u["questions"]]
    texts = [(r["text"], r["cluster"].split("+")) for r in answers if r.get("text")]
    return {
        "texts": len(texts),
        "a parent in the library for both clusters": sum(
            all(shares(text, records, c) for c in both) for text, both in texts
        ),
        "both rules said": sum(all(says_rule(text, clusters[c]) for c in both) for text, both in texts),
        "in no training point": sum(library.essence(text) not in known for text, _ in texts),
        "examples": [{"clusters": "+".join(both), "text": text} for text, both in texts[:10]],
    }


def renew(seed: int) -> list[dict]:
    """The bank with other test, composite, test_clusters and canary questions on the same rules, none asked before."""
    clusters = rules.load_clusters()
    published, new = world.bank(clusters), world.bank(clusters, seed)
    known = {r["question"] for r in published}
    kept = [r for r in published if r["split"] in ("train", "val")]
    return kept + [r for r in new if r["split"] not in ("train", "val") and r["question"] not in known]


def table(runs: Path, out: Path) -> None:
    units, records = read_lines(runs / "eval/results.jsonl"), library.load_library(runs / "library.jsonl")
    summary, table = (json.loads((runs / f"eval/{name}.json").read_text()) for name in ("summary", "table"))
    write_records(out / "recall.json", {"summary": summary, "novelty": novelty(units, records), "table": table})
    (out / "recall_table.md").write_text((runs / "eval/table.md").read_text())
    print(f"wrote {out}/recall.json, {out}/recall_table.md")


if __name__ == "__main__":
    action, source, to = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if action == "questions":
        write_lines(to, renew(int(source)))
    else:
        table(Path(source), to)
