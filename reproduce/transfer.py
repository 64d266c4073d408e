"""Puts table transfer of reproduce/points.sh together (T5): where the points of one question help, and the map of it.

    python reproduce/transfer.py runs/points/transfer/eval results        # transfer.json, transfer.md, transfer.svg

A point is read on its own question, on others of its cluster, on other clusters of its type (A: two thresholds, B: two signs, the last
letter of a cluster's name) and on clusters of the other type. The unit is the cluster of the point, averaged over writers.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from comparisons import heat_map
from conditions import label_test
from figures import pyplot
from measure import cluster_means, estimate

WHERE = ("its own question", "others of its cluster", "other clusters of its type", "the other type")


def place(record: dict) -> str:
    """Which of WHERE a pair of a point's question and a question that it is read on is."""
    if record["question_id"] == record["on"]:
        return WHERE[0]
    if record["cluster"] == record["on_cluster"]:
        return WHERE[1]
    return WHERE[2 if record["cluster"][-1] == record["on_cluster"][-1] else 3]


def gains(records: list[dict], kind: str) -> dict[str, list[float]]:
    """Mean gain of each point's question, by the point's cluster. kind: the type of these clusters, empty for all."""
    each: dict[tuple[str, str], list[float]] = {}
    for r in records:
        if r["cluster"].endswith(kind):
            each.setdefault((r["cluster"], r["question_id"]), []).append(r["with"] - r["without"])
    clusters: dict[str, list[float]] = {}
    for (cluster, _), values in each.items():
        clusters.setdefault(cluster, []).append(float(np.mean(values)))
    return clusters


def rows(units: list[dict]) -> list[dict]:
    made = []
    for writer in ("start", "trained"):
        part = [u["questions"] for u in units if (u["writer"] == "start") == (writer == "start")]
        for where in WHERE:
            for kind in ("", "A", "B"):
                seeds = [gains([r for r in records if place(r) == where], kind) for records in part]
                if not seeds[0]:
                    continue
                size = {"clusters": len(seeds[0]), "seeds": [float(cluster_means([s]).mean()) for s in seeds]}
                made.append({"writer": writer, "where": where, "type": kind or "all"} | estimate(seeds, "test_clusters") | size)
    return made


def markdown(table: list[dict], tests: dict[str, tuple[float, float]]) -> str:
    kinds = {"all": "all clusters", "A": "two thresholds", "B": "two signs"}
    lines = ["| writer | the point is read on | " + " | ".join(kinds.values()) + " |", "|---|---|---|---|---|"]
    at = {(r["writer"], r["where"], r["type"]): r for r in table}
    for writer in ("start", "trained"):
        for where in WHERE:
            found = [at.get((writer, where, kind)) for kind in kinds]
            cells = [f"{r['mean']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" if r else "-" for r in found]
            lines.append(f"| {writer} | {where} | " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"- {name}: its cluster minus other clusters {value:+.3f}, p {p:.4f} (cluster labels permuted)" for name, (value, p) in tests.items()]
    seeds, clusters = len(at["trained", WHERE[0], "all"]["seeds"]), at["start", WHERE[0], "all"]["clusters"]
    return "\n".join(
        [
            *lines,
            "",
            f"Accuracy with the point minus without, start reader; {seeds} trained writers, {clusters} clusters; 95 % intervals over writers, clusters and questions.",
        ]
    )


def picture(units: list[dict], path: Path) -> None:
    plt = pyplot()
    if plt is None:
        print("no matplotlib (pip install -r requirements.txt): the picture is left out")
        return
    pairs: dict[tuple[str, str], list[float]] = {}
    clusters: dict[str, str] = {}
    trained = [u for u in units if u["writer"] != "start"]
    for r in (r for u in trained for r in u["questions"]):
        pairs.setdefault((r["question_id"], r["on"]), []).append(r["with"] - r["without"])
        clusters |= {r["question_id"]: r["cluster"], r["on"]: r["on_cluster"]}
    note = f"{len(trained)} trained writers, start reader, clusters that were never rewarded"
    heat_map(plt, note, pairs, clusters).savefig(path, metadata={"Date": None})


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    units = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    tests = {"start" if u["writer"] == "start" else Path(u["writer"]).parent.parent.name: label_test(u["questions"]) for u in units}
    table = rows(units)
    (out / "transfer.json").write_text(json.dumps({"rows": table, "label tests": tests}, indent=1) + "\n")
    (out / "transfer.md").write_text(markdown(table, tests) + "\n")
    picture(units, out / "transfer.svg")
    print(markdown(table, tests) + f"\n\nwrote {out}/transfer.json, transfer.md, transfer.svg")


if __name__ == "__main__":
    main()
