"""Puts the runs of reproduce/observations.sh together: results/observations.json, a picture if matplotlib is there."""

import json
import sys
from pathlib import Path

from reproduce.records import read_lines, save_picture, write_records

ARMS = {
    "default": "learning-point tokens, other questions, lr 2e-4, KL 0.02",
    "same": "verified on the same question",
    "fast": "lr 3e-4, no KL",
    "answers": "conversation and verification answers trained too",
}


def advantage(step: dict) -> float | None:
    """On other questions of the cluster; on the same one where those are not asked."""
    other, same = (step[f"introspection_advantage/{kind}"] for kind in ("transfer", "same"))
    return same if other is None else other


CURVES = {
    "introspection advantage on rewarded clusters (moving mean of 10 steps)": advantage,
    "accuracy without a point on rewarded clusters": lambda step: step["accuracy/fresh"],
}


def moving_means(values: list[float | None], width: int = 10) -> list[float]:
    """Means of the last `width` steps; steps that measured nothing (None) are left out."""
    windows = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    found = [[value for value in window if value is not None] for window in windows]
    return [sum(part) / len(part) if part else 0.0 for part in found]


def collect(runs: Path) -> list[dict]:
    rows = []
    for path in sorted(runs.glob("*-*")):
        arm, seed = path.name.rsplit("-", 1)
        metrics = read_lines(path / "grpo_introspect/metrics.jsonl")
        curves = {name: moving_means([value(m) for m in metrics]) for name, value in CURVES.items()}
        held_out = {
            f"{r['writer']} {r['condition']}, {r['reader']} reader": {k: r[k] for k in ("with", "without", "advantage")}
            for r in json.loads((path / "eval/table.json").read_text())
        }
        rows.append({"arm": arm, "seed": int(seed), "what": ARMS[arm], "val": held_out, "curves": curves})
    return rows


def draw(plt, rows: list[dict]):
    """Each curve over training, a line a seed."""
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
    return figure


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs)
    write_records(out / "observations.json", rows)
    save_picture(out / "observations.svg", draw, rows)
    print(f"wrote {out}/observations.json")
