"""Puts the runs of reproduce/observations.sh together: results/observations.json, and a picture if matplotlib is there."""

import json
import sys
from pathlib import Path

from introspection.report.figures import pyplot

ARMS = {
    "default": "learning-point tokens, other questions, lr 2e-4, KL 0.02",
    "same": "verified on the same question",
    "fast": "lr 3e-4, no KL",
    "answers": "conversation and verification answers trained too",
}
CURVES = {
    "introspection advantage on rewarded clusters (moving mean of 10 steps)": lambda m: m[
        "introspection_advantage/same"
        if m["introspection_advantage/transfer"] is None
        else "introspection_advantage/transfer"
    ],
    "accuracy without a point on rewarded clusters": lambda m: m["accuracy/fresh"],
}


def smoothed(values: list[float | None], width: int = 10) -> list[float]:
    """Means of the last `width` steps; steps that measured nothing (None) are left out."""
    windows = [[v for v in values[max(0, i - width + 1) : i + 1] if v is not None] for i in range(len(values))]
    return [sum(window) / len(window) if window else 0.0 for window in windows]


def collect(runs: Path) -> list[dict]:
    rows = []
    for path in sorted(runs.glob("*-*")):
        arm, seed = path.name.rsplit("-", 1)
        metrics = [json.loads(line) for line in (path / "grpo_introspect/metrics.jsonl").read_text().splitlines()]
        table = json.loads((path / "eval/table.json").read_text())
        curves = {name: smoothed([value(m) for m in metrics]) for name, value in CURVES.items()}
        held_out = {
            f"{r['writer']} {r['condition']}, {r['reader']} reader": {k: r[k] for k in ("with", "without", "advantage")}
            for r in table
        }
        rows.append({"arm": arm, "seed": int(seed), "what": ARMS[arm], "val": held_out, "curves": curves})
    return rows


def picture(rows: list[dict], path: Path) -> None:
    plt = pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(1, len(CURVES), figsize=(11, 4), layout="constrained")
    for axis, name in zip(axes, CURVES, strict=True):
        for i, arm in enumerate(ARMS):
            for row in (r for r in rows if r["arm"] == arm):
                values = row["curves"][name]
                axis.plot(
                    range(1, len(values) + 1),
                    values,
                    color=f"C{i}",
                    linewidth=1.2,
                    label=ARMS[arm] if row["seed"] == 0 else None,
                )
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("step (one line a seed)", fontsize=7)
        axis.axhline(0, color="black", linewidth=0.5)
    axes[0].legend(fontsize=6)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs)
    (out / "observations.json").write_text(json.dumps(rows, indent=1) + "\n")
    picture(rows, out / "observations.svg")
    print(f"wrote {out}/observations.json")
