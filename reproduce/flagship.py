"""Puts the two evaluations of reproduce/flagship.sh together: results/flagship.json, and a picture if matplotlib is there."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from drawing import pyplot

from organism import rules

TITLES = {"test_clusters": "skill: clusters that were never rewarded", "test": "memory and skill: new questions of rewarded clusters"}


def ceiling(split: str, reveal: str, won: float) -> float:
    """Bayes-optimal accuracy on another question of the cluster after one exchange, mean over clusters (rules.ceiling).

    Losers, a share of 1 - won, see what `reveal` says; winners only learn that their answer was right.
    """
    part = {"test": "train", "test_clusters": "test_clusters"}[split]
    clusters = [c for c in rules.load_clusters().values() if c.split == part]
    answer, shown = (sum(rules.ceiling(c, 1, explained) for c in clusters) / len(clusters) for explained in (False, reveal == "explanation"))
    return won * answer + (1 - won) * shown


def collect(runs: Path) -> list[dict]:
    rows = []
    for reveal in ("explanation", "answer"):
        for row in json.loads((runs / reveal / "eval/table.json").read_text()):
            rows.append({"reveal": reveal, **row})
            if row["condition"] in ("points", "library"):
                top = ceiling(row["split"], reveal, row["without"])  # attempts are right as often as answers without a point
                rows[-1] |= {"ceiling": top, "efficiency": row["advantage"]["mean"] / (top - row["without"])}
    return rows


def picture(rows: list[dict], path: Path) -> None:
    plt = pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.5), sharex=True, layout="constrained")
    for i, reveal in enumerate(("explanation", "answer")):
        for j, split in enumerate(TITLES):
            axis, part = axes[i][j], [r for r in rows if (r["reveal"], r["split"]) == (reveal, split) and not r["condition"].startswith("points -")][::-1]
            for y, r in enumerate(part):
                e = r["advantage"]
                color = "tab:blue" if r["writer"] == "trained" else "gray"
                axis.errorbar(e["mean"], y, xerr=[[e["mean"] - e["low"]], [e["high"] - e["mean"]]], fmt="o", color=color, capsize=3)
            names = ["ideal points" if r["condition"] == "library" else f"{r['writer']} writer, {r['condition']}" for r in part]
            names = [name + ", trained reader" * (r["reader"] == "own") for name, r in zip(names, part, strict=True)]
            axis.set_yticks(range(len(part)), names, fontsize=7)
            axis.axvline(0, color="black", linewidth=0.6)
            axis.set_title(f"{TITLES[split]}\nfeedback: {reveal} ({part[0]['seeds']} seeds)", fontsize=8)
            axis.set_xlabel("introspection advantage (accuracy with the point - without)", fontsize=7)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs)
    (out / "flagship.json").write_text(json.dumps(rows, indent=1) + "\n")
    picture(rows, out / "flagship.svg")
    print(f"wrote {out}/flagship.json")
