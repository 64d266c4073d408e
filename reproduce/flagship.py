"""Puts the evaluations of reproduce/flagship.sh together: results/flagship.json, and a picture if matplotlib is there.

An arm that was not run here keeps the rows that results/flagship.json has of it.
"""

import json
import sys
from pathlib import Path

from introspection.report.figures import pyplot
from introspection.stats import estimate
from introspection.tables.units import by_cluster, in_every_unit, minus
from organism import rules

TITLES = {
    "test_clusters": "skill: clusters that were never rewarded",
    "test": "memory and skill: new questions of rewarded clusters",
}
ARMS = {
    "explanation": "losers see the explanation",
    "answer": "losers see the answer alone",
    "losers": "losers see the explanation, and only their points are trained",
    "ssd": "the same, from what SSD leaves of the start model",
}
AGAINST = {
    "ssd - losers": ("ssd", "losers")
}  # what the first step is worth: the trained writers' points, read by the start model


def ceiling(split: str, reveal: str, won: float) -> float:
    """Bayes-optimal accuracy on another question of the cluster after one exchange, mean over clusters (rules.ceiling).

    Losers, a share of 1 - won, see what `reveal` says; winners only learn that their answer was right.
    """
    part = {"test": "train", "test_clusters": "test_clusters"}[split]
    clusters = [c for c in rules.load_clusters().values() if c.split == part]
    answer, shown = (
        sum(rules.ceiling(c, 1, explained) for c in clusters) / len(clusters)
        for explained in (False, reveal == "explanation")
    )
    return won * answer + (1 - won) * shown


def collect(runs: Path, before: list[dict]) -> list[dict]:
    rows = []
    for arm in ARMS:
        path, reveal = runs / arm / "eval/table.json", "answer" if arm == "answer" else "explanation"
        if not path.exists():
            rows += [row for row in before if row["arm"] == arm]
            continue
        for row in json.loads(path.read_text()):
            rows.append({"arm": arm, "reveal": reveal, **row})
            if row["condition"] == "points":  # ideal points were not written from an exchange
                top = ceiling(
                    row["split"], reveal, row["without"]
                )  # attempts are right as often as answers without a point
                rows[-1] |= {"ceiling": top, "efficiency": row["advantage"]["mean"] / (top - row["without"])}
    for name, arms in AGAINST.items():
        logs = [runs / arm / "eval/results.jsonl" for arm in arms]
        rows += (
            [against(name, logs)]
            if all(log.exists() for log in logs)
            else [row for row in before if row["arm"] == name]
        )
    return rows


def against(name: str, logs: list[Path]) -> dict:
    """The gains of one arm's points minus those of another's, question by question and seed by seed."""
    units = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    asked = {"split": "test_clusters", "condition": "points", "reader": "start"}
    parts = [[u["questions"] for u in part if u["writer"] != "start" and asked.items() <= u.items()] for part in units]
    questions = in_every_unit([*parts[0], *parts[1]])
    ours, theirs = ([by_cluster(q) for q in half] for half in (questions[: len(parts[0])], questions[len(parts[0]) :]))
    seeds = minus(ours, theirs)
    return {
        "arm": name,
        **asked,
        "writer": "trained",
        "seeds": len(seeds),
        "questions": len(questions[0]),
        "advantage": estimate(seeds, asked["split"]),
    }


def label(row: dict) -> str:
    name = "ideal points" if row["condition"] == "library" else f"{row['writer']} writer, {row['condition']}"
    return name + ", trained reader" * (row["reader"] == "own")


def picture(rows: list[dict], path: Path) -> None:
    plt = pyplot()
    if plt is None:
        return
    panels = [
        (arm, split) for arm in ARMS for split in TITLES if any((r["arm"], r["split"]) == (arm, split) for r in rows)
    ]
    lines = -(-len(panels) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(11, 3.2 * lines), sharex=True, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (arm, split) in zip(axes.flat, panels, strict=False):
        part = [
            r for r in rows if (r["arm"], r["split"]) == (arm, split) and not r["condition"].startswith("points -")
        ][::-1]
        for y, r in enumerate(part):
            e = r["advantage"]
            color = "tab:blue" if r["writer"] == "trained" else "gray"
            axis.errorbar(
                e["mean"], y, xerr=[[e["mean"] - e["low"]], [e["high"] - e["mean"]]], fmt="o", color=color, capsize=3
            )
        axis.set_yticks(range(len(part)), [label(r) for r in part], fontsize=7)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(f"{TITLES[split]}\n{ARMS[arm]} ({max(r['seeds'] for r in part)} seeds)", fontsize=8)
        axis.set_xlabel("introspection advantage (accuracy with the point - without)", fontsize=7)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    committed = Path("results/flagship.json")
    rows = collect(runs, json.loads(committed.read_text()) if committed.exists() else [])
    (out / "flagship.json").write_text(json.dumps(rows, indent=1) + "\n")
    picture(rows, out / "flagship.svg")
    print(f"wrote {out}/flagship.json")
