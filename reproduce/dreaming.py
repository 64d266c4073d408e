"""Puts the runs of reproduce/dreaming.sh together: results/dreaming.json, and a picture if matplotlib is there.

The unit is a dreamt cluster, averaged over the seeds that dreamt of it (they dream about different questions). Gap closed is a ratio of means
over units; its interval is a bootstrap over them. Rules (types A, B, D) and single facts (type C) are counted apart: a fact says nothing about another
question of its cluster, where a model that reads it is wrong. The unit of canary and neighbours is the question, over seeds.
"""

import json
import sys
from pathlib import Path

import numpy as np

from introspection.report.figures import pyplot

ARMS = {
    "majority": "label: what the model answers most with the point; variants that it wrote itself",
    "log-ratio": "reward: log p(answer | point) - log p(answer)",
    "gold": "label: the right answer to twins, no point anywhere",
    "with-point": "the point stays in context (consumption training)",
    "twins": "variants: the question's counterfactual twins",
    "false-point": "a false point: is its rule followed?",
    "all-types": "label: majority; single facts dreamt too",
}


def units(ends: list[tuple[dict, dict]], name: str, bank: dict[str, str], letters: str) -> np.ndarray:
    """(before, after, with the point) of each dreamt cluster of some types, over the (first, last) evaluations of all seeds."""
    clusters: dict[str, list] = {}
    for first, last in ends:
        here: dict[str, list] = {}
        for question, before in ((q, b) for q, b in first["each"][name].items() if bank[q][-1] in letters):
            here.setdefault(bank[question], []).append(
                (before, last["each"][name][question], first["each"][f"{name}_with_point"][question])
            )
        for cluster, part in here.items():
            clusters.setdefault(cluster, []).append(np.mean(part, axis=0))
    return np.array([np.mean(part, axis=0) for part in clusters.values()])


def changes(ends: list[tuple[dict, dict]], name: str) -> np.ndarray:
    """After minus before of each question of a group, over the seeds that asked it."""
    each: dict[str, list[float]] = {}
    for first, last in ends:
        for question, before in first["each"][name].items():
            each.setdefault(question, []).append(last["each"][name][question] - before)
    return np.array([np.mean(part) for part in each.values()])


def interval(values: np.ndarray, statistic, resamples: int = 4000) -> dict:
    draws = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high, lower = np.quantile([statistic(values[draw]) for draw in draws], [0.025, 0.975, 0.05]).tolist()
    return {"mean": float(statistic(values)), "low": low, "high": high, "lower_bound": lower, "n": len(values)}


def gap_closed(values: np.ndarray) -> float:
    before, after, told = values.mean(0)
    return float((after - before) / (told - before)) if abs(told - before) > 1e-9 else float("nan")


def collect(runs: Path, bank: dict[str, str]) -> list[dict]:
    rows = []
    for arm, what in ARMS.items():
        ends = []
        for path in sorted(p for p in runs.glob(f"{arm}-[0-9]*") if (p / "dream_tta/final").exists()):
            records = [json.loads(line) for line in (path / "dream_tta/eval.jsonl").read_text().splitlines()]
            ends.append((records[0], records[-1]))
        if not ends:
            continue
        row = {"arm": arm, "what": what, "seeds": len(ends), "steps": [last["step"] for _, last in ends]}
        for name in ("target", "agreement"):
            for kind, letters in (("rules", "ABD"), ("facts", "C")):
                values = units(ends, name, bank, letters)
                if len(values):
                    means = dict(zip(("before", "after", "with_point"), values.mean(0).tolist(), strict=True))
                    row[f"{name}, {kind}"] = means | {"gap_closed": interval(values, gap_closed)}
        for name in ("neighbour", "canary"):
            row[f"{name}_change"] = interval(changes(ends, name), lambda part: float(part.mean()))
        rows.append(row)
    return rows


def picture(rows: list[dict], path: Path) -> None:
    plt = pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True, layout="constrained")
    for axis, (name, title) in zip(
        axes,
        (
            ("target, rules", "accuracy without the point"),
            ("agreement, rules", "agreement with the start model that reads the point"),
        ),
        strict=True,
    ):
        for y, row in enumerate(rows[::-1]):
            part = row[name]
            axis.plot([part["before"], part["after"]], [y, y], color="gray", linewidth=1)
            axis.plot(part["before"], y, "o", color="gray", label="before" if y == 0 else None)
            axis.plot(part["after"], y, "o", color="tab:blue", label="after dreaming" if y == 0 else None)
            axis.plot(
                part["with_point"],
                y,
                "|",
                color="black",
                markersize=12,
                label="start model, point in context" if y == 0 else None,
            )
        axis.set_yticks(range(len(rows)), [f"{row['what']}\n(seeds: {row['seeds']})" for row in rows[::-1]], fontsize=7)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_title(f"{title}\n(rules, questions that were not dreamt)", fontsize=8)
        axis.tick_params(axis="y", length=0, pad=8)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower right", ncols=3)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    bank = {r["id"]: r["cluster"] for r in map(json.loads, Path("data/bank.jsonl").read_text().splitlines())}
    known, rows = out / "dreaming.json", {r["arm"]: r for r in collect(runs, bank)}
    rows = {
        r["arm"]: r for r in (json.loads(known.read_text()) if known.exists() else [])
    } | rows  # arms whose runs are gone keep their rows
    rows = [rows[arm] for arm in ARMS if arm in rows]
    (out / "dreaming.json").write_text(json.dumps(rows, indent=1) + "\n")
    picture(rows, out / "dreaming.svg")
    print(f"wrote {out}/dreaming.json")
