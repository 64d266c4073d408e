"""Puts the runs of reproduce/dreaming.sh together: results/dreaming.json, and a picture if matplotlib is there.

The unit is a dreamt cluster, averaged over the seeds that dreamt of it (they dream about different questions). Gap
closed is a ratio of means over units; its interval is a bootstrap over them. Rules (types A, B, D) and single facts
(type C) are counted apart: a fact says nothing about another question of its cluster, where a model that reads it is
wrong.
"""

import json
import sys
from pathlib import Path

import numpy as np

from introspection.stats import estimate
from introspection.tables.units import minus
from reproduce.records import group, read_lines, save_picture, write_records
from reproduce.rivals import estimate_clusters

ARMS = {
    "majority": "label: what the model answers most with the point; variants that it wrote itself",
    "log-ratio": "reward: log p(answer | point) - log p(answer)",
    "gold": "label: the right answer to twins, no point anywhere",
    "with-point": "the point stays in context (consumption training)",
    "twins": "variants: the question's counterfactual twins",
    "false-point": "a false point: is its rule followed?",
    "all-types": "label: majority; single facts dreamt too",
    "own": "as the first, the question itself too, with its answer",
    "gentle": "as the first, a KL of 0.02 instead of 0.08",
    "rehearse": "as the first, the KL on made-up conversations (stage 3's default)",
}


# ---- what was measured ---------------------------------------------------------------------------------------------
def dreamt_clusters(ends: list[tuple[dict, dict]], name: str, bank: dict[str, str], letters: str) -> dict[str, list]:
    """[before, after, with the point] of each seed that dreamt of a cluster, for clusters of some types.

    ends: the first and the last evaluation of each seed.
    """
    means = []
    for first, last in ends:
        sides = (first["each"][name], last["each"][name], first["each"][f"{name}_with_point"])
        here = group((bank[q], [side[q] for side in sides]) for q in sides[0] if bank[q][-1] in letters)
        means += [(cluster, np.mean(part, axis=0).tolist()) for cluster, part in here.items()]
    return group(means)


def units(ends: list[tuple[dict, dict]], name: str, bank: dict[str, str], letters: str) -> np.ndarray:
    """(clusters, 3): before, after and with the point, over the seeds that dreamt of a cluster."""
    return np.array([np.mean(seeds, axis=0) for seeds in dreamt_clusters(ends, name, bank, letters).values()])


def changes(ends: list[tuple[dict, dict]], name: str, bank: dict[str, str]) -> list[dict[str, list[float]]]:
    """After minus before of a group's questions, by cluster, of each seed."""
    return [
        group(
            (bank[question], last["each"][name][question] - before) for question, before in first["each"][name].items()
        )
        for first, last in ends
    ]


def bootstrap_units(values: np.ndarray, statistic, resamples: int = 4000) -> dict:
    draws = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high, lower = np.quantile([statistic(values[draw]) for draw in draws], [0.025, 0.975, 0.05]).tolist()
    return {"mean": float(statistic(values)), "low": low, "high": high, "lower_bound": lower, "n": len(values)}


def gap_closed(values: np.ndarray) -> float:
    before, after, told = values.mean(0)
    return float((after - before) / (told - before)) if abs(told - before) > 1e-9 else float("nan")


def row_of(arm: str, ends: list[tuple[dict, dict]], bank: dict[str, str]) -> dict:
    """What the table says of an arm, by kind of cluster."""
    row = {"arm": arm, "what": ARMS[arm], "seeds": len(ends), "steps": [last["step"] for _, last in ends]}
    for name in ("target", "agreement"):
        for kind, letters in (("rules", "ABD"), ("facts", "C")):
            values = units(ends, name, bank, letters)
            if len(values):
                row[f"{name}, {kind}"] = {
                    **dict(zip(("before", "after", "with_point"), values.mean(0).tolist(), strict=True)),
                    "gap_closed": bootstrap_units(values, gap_closed),
                    "by_cluster": dreamt_clusters(ends, name, bank, letters),
                }
    # Seeds have the same canary, and other neighbours: those of clusters that they did not dream of.
    seeds = changes(ends, "neighbour", bank)
    of_cluster = group((cluster, float(np.mean(part))) for seed in seeds for cluster, part in seed.items())
    means = np.array([np.mean(part) for part in of_cluster.values()])
    row["neighbour_change"] = bootstrap_units(means, lambda part: float(part.mean())) | {"by_cluster": of_cluster}
    row["canary_change"] = estimate_clusters(changes(ends, "canary", bank))
    return row


def against(row: dict, base: dict) -> dict | None:
    """Accuracy on rules after a dream minus that of another arm, where both dreamt of the same clusters."""
    parts = [r["target, rules"].get("by_cluster", {}) for r in (row, base)]
    if not parts[0] or parts[0].keys() != parts[1].keys():
        return None
    after = [{c: [np.mean([seed[1] for seed in seeds])] for c, seeds in part.items()} for part in parts]
    return estimate(minus(after[:1], after[1:]), "test")


def collect(runs: Path, bank: dict[str, str]) -> list[dict]:
    rows = []
    for arm in ARMS:
        homes = [path / "dream_tta" for path in sorted(runs.glob(f"{arm}-[0-9]*"))]
        logs = [read_lines(home / "eval.jsonl") for home in homes if (home / "final").exists()]
        if logs:
            rows.append(row_of(arm, [(log[0], log[-1]) for log in logs], bank))
    return rows


# ---- the table -----------------------------------------------------------------------------------------------------
def draw(plt, rows: list[dict]):
    """Before and after dreaming, beside the start model with the point in context."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.2 + 0.38 * len(rows)), sharey=True, layout="constrained")
    titles = {
        "target, rules": "accuracy without the point",
        "agreement, rules": "agreement with the start model that reads the point",
    }
    labels = ("before", "after dreaming", "start model, point in context")
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for y, row in enumerate(rows[::-1]):
            before, after, told = labels if y == 0 else (None, None, None)  # one entry of the legend for all rows
            part = row[name]
            axis.plot([part["before"], part["after"]], [y, y], color="gray", linewidth=1)
            axis.plot(part["before"], y, "o", color="gray", label=before)
            axis.plot(part["after"], y, "o", color="tab:blue", label=after)
            axis.plot(part["with_point"], y, "|", color="black", markersize=12, label=told)
        axis.set_yticks(range(len(rows)), [f"{row['what']}\n(seeds: {row['seeds']})" for row in rows[::-1]], fontsize=7)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_title(f"{title}\n(rules, questions that were not dreamt)", fontsize=8)
        axis.tick_params(axis="y", length=0, pad=8)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower right", ncols=3)
    return figure


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    bank = {r["id"]: r["cluster"] for r in read_lines(Path("data/bank.jsonl"))}
    known = out / "dreaming.json"
    earlier = json.loads(known.read_text()) if known.exists() else []  # arms whose runs are gone keep their rows
    rows = {r["arm"]: r for r in [*earlier, *collect(runs, bank)]}
    rows = [rows[arm] for arm in ARMS if arm in rows]
    for row in rows[1:] if rows and rows[0]["arm"] == "majority" else []:
        row["minus majority"] = against(row, rows[0])
    write_records(known, rows)
    save_picture(out / "dreaming.svg", draw, rows)
    print(f"wrote {known}")
