"""Puts the evaluations of reproduce/flagship.sh together: results/flagship.json, and a picture if matplotlib is there.

An arm that was not run here keeps the rows that results/flagship.json has of it.
"""

import json
import sys
from pathlib import Path

from introspection.stats import estimate
from introspection.tables.units import by_cluster, in_every_unit, minus
from organism import rules
from reproduce.records import group, read_lines, save_picture, write_records
from reproduce.rivals import seeds_by_cluster

SPLIT = "test_clusters"
ARMS = {
    "explanation": "losers see the explanation",
    "answer": "losers see the answer alone",
    "losers": "losers see the explanation, and only their points are trained",
    "ssd": "the same, from what SSD leaves of the start model",
}
# What the first step is worth: the trained writers' points, read by the start model.
AGAINST = {"ssd - losers": ("ssd", "losers")}


def ceiling(reveal: str, won: float) -> float:
    """Bayes-optimal accuracy on another question of the cluster after one exchange, mean over clusters (rules.ceiling).

    Losers, a share of 1 - won, see what `reveal` says; winners only learn that their answer was right.
    """
    clusters = [c for c in rules.load_clusters().values() if c.split == SPLIT]
    answer, shown = (rules.mean_ceiling(clusters, 1, told) for told in (False, reveal == "explanation"))
    return won * answer + (1 - won) * shown


def collect(runs: Path, before: list[dict]) -> list[dict]:
    """Each arm's evaluation with its ceilings, and the contrasts; `before`: rows of what was not run here."""
    rows, kept = [], group((row["arm"], row) for row in before)
    for arm in ARMS:
        path, reveal = runs / arm / "eval/table.json", "answer" if arm == "answer" else "explanation"
        if not path.exists():
            rows += kept.get(arm, [])
            continue
        for row in json.loads(path.read_text()):
            rows.append({"arm": arm, "reveal": reveal, **row})
            if row["condition"] == "points":  # ideal points were not written from an exchange
                won = row["without"]  # attempts are right as often as answers without a point
                top = ceiling(reveal, won)
                rows[-1] |= {"ceiling": top, "efficiency": row["advantage"]["mean"] / (top - won)}
    for name, arms in AGAINST.items():
        logs = [runs / arm / "eval/results.jsonl" for arm in arms]
        rows += [against(name, logs)] if all(log.exists() for log in logs) else kept.get(name, [])
    return rows


def against(name: str, logs: list[Path]) -> dict:
    """The gains of one arm's points minus those of another's, question by question and seed by seed."""
    asked = {"split": SPLIT, "condition": "points", "reader": "start"}
    parts = [
        [u["questions"] for u in read_lines(log) if u["writer"] != "start" and asked.items() <= u.items()]
        for log in logs
    ]
    questions = in_every_unit([*parts[0], *parts[1]])
    gains = [by_cluster(records) for records in questions]
    seeds = minus(gains[: len(parts[0])], gains[len(parts[0]) :])
    return {
        "arm": name,
        **asked,
        "writer": "trained",
        "seeds": len(seeds),
        "questions": len(questions[0]),
        "advantage": estimate(seeds, asked["split"]) | {"by_cluster": seeds_by_cluster(seeds)},
    }


def label(row: dict) -> str:
    name = "ideal points" if row["condition"] == "library" else f"{row['writer']} writer, {row['condition']}"
    return f"{name}, trained reader" if row["reader"] == "own" else name


def draw(plt, rows: list[dict]):
    """Each writer's advantage, a panel for each arm."""
    there = {r["arm"] for r in rows}
    panels = [arm for arm in ARMS if arm in there]
    lines = -(-len(panels) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(11, 3.2 * lines), sharex=True, layout="constrained", squeeze=False)
    figure.suptitle("Clusters that were never rewarded", fontsize=9)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, arm in zip(axes.flat, panels, strict=False):
        part = [r for r in rows[::-1] if r["arm"] == arm and not r["condition"].startswith("points -")]
        for y, r in enumerate(part):
            e = r["advantage"]
            axis.errorbar(
                e["mean"],
                y,
                xerr=[[e["mean"] - e["low"]], [e["high"] - e["mean"]]],
                fmt="o",
                color="tab:blue" if r["writer"] == "trained" else "gray",
                capsize=3,
            )
        axis.set_yticks(range(len(part)), [label(r) for r in part], fontsize=7)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(f"{ARMS[arm]} ({max(r['seeds'] for r in part)} seeds)", fontsize=8)
        axis.set_xlabel("introspection advantage (accuracy with the point - without)", fontsize=7)
    return figure


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    committed = Path("results/flagship.json")
    rows = collect(runs, json.loads(committed.read_text()) if committed.exists() else [])
    write_records(out / "flagship.json", rows)
    save_picture(out / "flagship.svg", draw, rows)
    print(f"wrote {out}/flagship.json")
