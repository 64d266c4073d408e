"""Puts the runs of reproduce/rare.sh together: results/rare.json, rare.md and rare.svg (table T14).

The unit is the problem on Countdown and the cluster on the bank, whose questions share their clusters' rules; all seeds
are measured on the same problems. mean@4 and best@4: of four answers to each problem of the split test.
At equal tokens: each problem's accuracy where a run has generated as many tokens as the thriftier of the two had at its
end, by straight lines between evaluations.
"""

import sys
from pathlib import Path

import numpy as np

from introspection.report import figures
from reproduce.records import (
    markdown_table,
    quantity,
    read_lines,
    save_picture,
    shown_change,
    shown_interval,
    shown_tokens,
    write_table,
)
from reproduce.retry import bootstrap_problems, differences, estimate_change
from reproduce.rivals import estimate_clusters, group_by_cluster

TASKS = {
    "bank": ("questions that the start model never answers right", "explanation"),
    "countdown": ("Countdown, targets that only a product reaches", "right answer"),
}
ARMS = {  # whether a wrong answer is told more than that it is wrong; method
    "grpo": (False, "GRPO, G = 8"),
    "sdpo-8-nothing": (False, "SDPO, G = 8"),
    "resd-nothing": (False, "Resd, G = 1"),
    "sdpo-8": (True, "SDPO, G = 8"),
    "sdpo-1": (True, "SDPO, G = 1"),
    "sdpo-1-stream": (True, "SDPO, G = 1, in Resd's stream"),
    "sdpo-1-context": (True, "Resd, G = 1, with the objective and the moving average of SDPO"),
    "resd": (True, "Resd, G = 1"),
    "resd-no-reflection": (True, "Resd without reflection"),
    "resd-no-playbook": (True, "Resd without playbook"),
    "resd-no-buffer": (True, "Resd without solution buffer"),
    "resd-then-grpo": (True, "Resd for half of the updates, then GRPO"),
}
HEAD = [
    "told",
    "method",
    "mean@4",
    "best@4",
    "none of four right",
    "all four right",
    "canary",
    "tokens generated, trained",
    "seconds a step",
]
CONTRASTS = [  # the first two are those that were named before the runs
    ("resd", "sdpo-1"),
    ("sdpo-8", "grpo"),
    ("sdpo-8-nothing", "grpo"),
    ("resd-nothing", "grpo"),
    ("resd", "sdpo-1-stream"),
    ("resd", "sdpo-1-context"),
    ("resd", "sdpo-8"),
    ("resd", "resd-no-reflection"),
    ("resd", "resd-no-playbook"),
    ("resd", "resd-no-buffer"),
    ("resd-then-grpo", "grpo"),
    ("resd-then-grpo", "resd"),
]


# ---- what was measured ---------------------------------------------------------------------------------------------
def estimate_problems(seeds: list[dict[str, float]], cluster_of: dict[str, str] | None) -> dict:
    """Mean, interval and p of each problem's value, by seed; by cluster where there are clusters."""
    if cluster_of is None:
        return bootstrap_problems(seeds)
    found = estimate_clusters([group_by_cluster(seed, cluster_of) for seed in seeds])
    found |= {"problems": len(seeds[0]), "seeds": len(seeds)}
    return {name: found[name] for name in ("mean", "low", "high", "p", "problems", "seeds", "by_cluster")}


def curve_of(run: Path) -> dict:
    """A run's evaluations by generated tokens, its stages one after the other, and its cost.

    tokens (E,), each [{split: {problem: accuracy}}]; tagged: entries that a reflection called helpful or harmful.
    """
    curve = {"tokens": [], "each": [], "generated_tokens": 0, "trained_tokens": 0, "seconds": [], "tagged": 0}
    for stage in [run / name for name in ("resd", "sdpo", "grpo") if (run / name).exists()]:
        steps = {r["step"]: r for r in read_lines(stage / "metrics.jsonl")}
        for r in read_lines(stage / "eval.jsonl"):
            if r["step"] or not curve["tokens"]:  # a second stage starts where the first one ended
                here = steps[r["step"]]["generated_tokens"] if r["step"] else 0
                curve["tokens"].append(curve["generated_tokens"] + here)
                curve["each"].append(r["each"])
        for name in ("generated_tokens", "trained_tokens"):
            curve[name] += steps[max(steps)][name]
        curve["seconds"] += [r["time/step"] for r in steps.values()]
        curve["tagged"] += sum(r.get("playbook/tagged") or 0 for r in steps.values())
    return curve


def accuracy_at(curve: dict, tokens: float) -> dict[str, float]:
    """Accuracy of each test problem when `tokens` had been generated."""
    values = {p: [e["test"][p] for e in curve["each"]] for p in curve["each"][0]["test"]}
    return {p: float(np.interp(tokens, curve["tokens"], part)) for p, part in values.items()}


def row_of(arm: str, curves: list[dict], cluster_of: dict[str, str] | None) -> dict:
    """What the table says of an arm: before, after and change of each column, the curve, the cost."""
    row = {
        "arm": arm,
        "what": ARMS[arm][1],
        "generated_tokens": [c["generated_tokens"] for c in curves],
        "trained_tokens": [c["trained_tokens"] for c in curves],
        "seconds a step": [float(np.median(c["seconds"])) for c in curves],
    }
    columns = (("mean", "test", float), ("best", "test", lambda v: float(v > 0)), ("canary", "canary", float))
    for name, split, value in columns:
        before, after = ([{p: value(v) for p, v in c["each"][k][split].items()} for c in curves] for k in (0, -1))
        row[name] = estimate_change(before, after, lambda seeds: estimate_problems(seeds, cluster_of))
    for name, value in (("none of four right", 0), ("all four right", 1)):
        ends = ([v == value for c in curves for v in c["each"][k]["test"].values()] for k in (0, -1))
        row[name] = [float(np.mean(part)) for part in ends]
    tests = [(tokens, e["test"]) for c in curves for tokens, e in zip(c["tokens"], c["each"], strict=True)]
    unit_of = cluster_of or dict.fromkeys(curves[0]["each"][0]["test"], "all")
    parts = [(tokens, group_by_cluster(test, unit_of).values()) for tokens, test in tests]
    row["curve"] = [[tokens, float(np.mean([np.mean(part) for part in units]))] for tokens, units in parts]
    return row | {"tagged": [c["tagged"] for c in curves]}


def contrast_of(a: str, b: str, curves: dict[str, list[dict]], cluster_of: dict[str, str] | None) -> dict:
    """One arm minus another, seed by seed: at the ends of both, and where both had generated as many tokens."""
    pairs = list(zip(curves[a], curves[b], strict=True))
    budget = [min(x["tokens"][-1], y["tokens"][-1]) for x, y in pairs]
    last = [differences(x["each"][-1]["test"], y["each"][-1]["test"]) for x, y in pairs]
    same = [differences(accuracy_at(x, t), accuracy_at(y, t)) for (x, y), t in zip(pairs, budget, strict=True)]
    return {
        "of": a,
        "minus": b,
        "at the end": estimate_problems(last, cluster_of),
        "at equal tokens": estimate_problems(same, cluster_of),
        "tokens": budget,
    }


def collect(runs: Path) -> dict:
    """By task: a row for each arm, and the contrasts of arms that both ran."""
    record = {}
    for task in TASKS:
        curves = {arm: [curve_of(path) for path in sorted((runs / task).glob(f"{arm}-[0-9]"))] for arm in ARMS}
        curves = {arm: part for arm, part in curves.items() if part}
        cluster_of = {r["id"]: r["cluster"] for r in read_lines(runs / "bank.jsonl")} if task == "bank" else None
        rows = [row_of(arm, part, cluster_of) for arm, part in curves.items()]
        contrasts = [contrast_of(a, b, curves, cluster_of) for a, b in CONTRASTS if {a, b} <= set(curves)]
        record[task] = {"rows": rows, "contrasts": contrasts}
    return record


# ---- the table -----------------------------------------------------------------------------------------------------
def task_tables(task: str, rows: list[dict], contrasts: list[dict]) -> list[str]:
    """The arms of a task, and the contrasts among them."""
    what, more = TASKS[task]
    told = {arm: more if ARMS[arm][0] else "right or wrong" for arm in ARMS}
    lines = []
    for r in rows:
        ends = [f"{r[name][0]:.2f} -> {r[name][1]:.2f}" for name in ("none of four right", "all four right")]
        lines.append(
            [
                told[r["arm"]],
                r["what"],
                shown_change(r["mean"]),
                shown_change(r["best"]),
                *ends,
                shown_change(r["canary"]),
                shown_tokens(r),
                f"{np.mean(r['seconds a step']):.2f}",
            ]
        )
    compared = []
    for c in contrasts:
        ends, equal = (f"{shown_interval(c[at])}, p = {c[at]['p']:.3f}" for at in ("at the end", "at equal tokens"))
        compared.append(
            [
                " minus ".join(f"{ARMS[c[side]][1]} ({told[c[side]]})" for side in ("of", "minus")),
                ends,
                f"{equal} (at {np.mean(c['tokens']) / 1000:,.0f} k)",
            ]
        )
    sizes = rows[0]["mean"]["change"]
    return [
        f"{what[0].upper()}{what[1:]} ({quantity(sizes['seeds'], 'seed')}, the same {sizes['problems']} test problems "
        "in each)",
        "",
        *markdown_table(HEAD, lines),
        "",
        *markdown_table(["difference of mean@4", "at the end", "at equal generated tokens"], compared),
        "",
    ]


def markdown(record: dict) -> str:
    lines = [line for task in TASKS for line in task_tables(task, **record[task])]
    lines.append(
        "95 % intervals over seeds and clusters (Countdown: problems), and p by these, not corrected. Seconds: one "
        "thread, medians."
    )
    return "\n".join(lines)


def draw(plt, record: dict):
    """mean@4 over generated tokens, a panel for each task."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    colors = {
        "grpo": figures.GREEN,
        "sdpo-8": figures.PURPLE,
        "sdpo-1": figures.ORANGE,
        "resd": figures.BLUE,
        "resd-then-grpo": figures.GREY,
    }
    for axis, (task, (what, _)) in zip(axes, TASKS.items(), strict=True):
        sizes = record[task]["rows"][0]["mean"]["change"]
        for row in [r for r in record[task]["rows"] if r["arm"] in colors]:
            curve = np.array(row["curve"]).reshape(row["mean"]["change"]["seeds"], -1, 2).mean(0)  # (E, 2)
            label = f"{row['what']} (told {'more' if ARMS[row['arm']][0] else 'right or wrong'})"
            axis.plot(curve[:, 0] / 1000, curve[:, 1], "o-", markersize=3, color=colors[row["arm"]], label=label)
        axis.set_xlabel("thousand tokens generated")
        axis.set_title(f"{what} ({sizes['seeds']} seeds, {sizes['problems']} problems)", fontsize=8)
        axis.set_ylim(0)
    axes[0].set_ylabel("mean@4, test problems")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=5, fontsize=7)
    return figure


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    record = collect(runs)
    write_table(out, "rare", record, markdown(record))
    save_picture(out / "rare.svg", draw, record)
