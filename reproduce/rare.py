"""Puts the runs of reproduce/rare.sh together: results/rare.json, rare.md and rare.svg (table T14).

The unit is the problem on Countdown and the cluster on the bank, whose questions share their clusters' rules; all seeds are measured on the
same problems. mean@4 and best@4: of four answers to each problem of the split test.
At equal tokens: each problem's accuracy where a run has generated as many tokens as the thriftier of the two had at its end, by
straight lines between evaluations.
"""

import json
import sys
from pathlib import Path

import numpy as np

from introspection import stats
from introspection.report import figures
from reproduce import retry
from reproduce.rivals import by_cluster, lines

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
CONTRASTS = [  # the first two are those that were named before the runs
    ("resd", "sdpo-1"), ("sdpo-8", "grpo"), ("sdpo-8-nothing", "grpo"), ("resd-nothing", "grpo"), ("resd", "sdpo-1-stream"), ("resd", "sdpo-1-context"), ("resd", "sdpo-8"),
    ("resd", "resd-no-reflection"), ("resd", "resd-no-playbook"), ("resd", "resd-no-buffer"), ("resd-then-grpo", "grpo"), ("resd-then-grpo", "resd"),
]  # fmt: skip


def estimate(seeds: list[dict[str, float]], cluster_of: dict[str, str] | None) -> dict:
    """Mean, interval and p of each problem's value, by seed; by cluster where there are clusters."""
    if cluster_of is None:
        return retry.estimate(seeds)
    found = stats.estimate([by_cluster(seed, cluster_of) for seed in seeds], "test")
    return {name: found[name] for name in ("mean", "low", "high", "p")} | {
        "problems": len(seeds[0]),
        "seeds": len(seeds),
    }


def curve_of(run: Path) -> dict:
    """A run's evaluations by generated tokens, its stages one after the other: tokens (E,), each [{split: {problem: accuracy}}], cost."""
    tokens, each, cost = [], [], {"generated_tokens": 0, "trained_tokens": 0, "seconds": [], "tagged": 0}
    for stage in [run / name for name in ("resd", "sdpo", "grpo") if (run / name).exists()]:
        steps = {r["step"]: r for r in lines(stage / "metrics.jsonl")}
        for r in lines(stage / "eval.jsonl"):
            if r["step"] or not tokens:  # a second stage starts where the first one ended
                tokens.append(cost["generated_tokens"] + (steps[r["step"]]["generated_tokens"] if r["step"] else 0))
                each.append(r["each"])
        last = steps[max(steps)]
        seconds = cost["seconds"] + [r["time/step"] for r in steps.values()]
        tagged = cost["tagged"] + sum(
            r.get("playbook/tagged") or 0 for r in steps.values()
        )  # entries that a reflection called helpful or harmful
        cost = {name: cost[name] + last[name] for name in ("generated_tokens", "trained_tokens")} | {
            "seconds": seconds,
            "tagged": tagged,
        }
    return {"tokens": tokens, "each": each, **cost}


def at(curve: dict, tokens: float) -> dict[str, float]:
    """Accuracy of each test problem when `tokens` had been generated."""
    return {
        p: float(np.interp(tokens, curve["tokens"], [e["test"][p] for e in curve["each"]]))
        for p in curve["each"][0]["test"]
    }


def less(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {p: a[p] - b[p] for p in a}


def row_of(arm: str, curves: list[dict], cluster_of: dict[str, str] | None) -> dict:
    row = {"arm": arm, "what": ARMS[arm][1]}
    row |= {name: [c[name] for c in curves] for name in ("generated_tokens", "trained_tokens")}
    row["seconds a step"] = [float(np.median(c["seconds"])) for c in curves]
    for name, split, value in (
        ("mean", "test", float),
        ("best", "test", lambda v: float(v > 0)),
        ("canary", "canary", float),
    ):
        ends = [[{p: value(v) for p, v in c["each"][k][split].items()} for c in curves] for k in (0, -1)]
        changes = [less(b, a) for a, b in zip(*ends, strict=True)]
        row[name] = {
            what: estimate(part, cluster_of)
            for what, part in (("before", ends[0]), ("after", ends[1]), ("change", changes))
        }
    for name, value in (("none of four right", 0), ("all four right", 1)):
        row[name] = [
            float(np.mean([v == value for c in curves for v in c["each"][k]["test"].values()])) for k in (0, -1)
        ]
    parts = [
        [list(e["test"].values())] if cluster_of is None else by_cluster(e["test"], cluster_of).values()
        for c in curves
        for e in c["each"]
    ]
    row["curve"] = [
        [t, float(np.mean([np.mean(p) for p in part]))]
        for t, part in zip([t for c in curves for t in c["tokens"]], parts, strict=True)
    ]
    row["tagged"] = [c["tagged"] for c in curves]
    return row


def collect(runs: Path) -> dict:
    """By task: a row for each arm, and the contrasts of arms that both ran."""
    record = {}
    for task in TASKS:
        curves = {arm: [curve_of(path) for path in sorted((runs / task).glob(f"{arm}-[0-9]"))] for arm in ARMS}
        curves = {arm: part for arm, part in curves.items() if part}
        cluster_of = {r["id"]: r["cluster"] for r in lines(runs / "bank.jsonl")} if task == "bank" else None
        contrasts = []
        for a, b in (names for names in CONTRASTS if set(names) <= set(curves)):
            pairs = list(zip(curves[a], curves[b], strict=True))
            last, budget = (
                [less(x["each"][-1]["test"], y["each"][-1]["test"]) for x, y in pairs],
                [min(x["tokens"][-1], y["tokens"][-1]) for x, y in pairs],
            )
            same = [less(at(x, t), at(y, t)) for (x, y), t in zip(pairs, budget, strict=True)]
            contrasts.append(
                {
                    "of": a,
                    "minus": b,
                    "at the end": estimate(last, cluster_of),
                    "at equal tokens": estimate(same, cluster_of),
                    "tokens": budget,
                }
            )
        record[task] = {"rows": [row_of(arm, part, cluster_of) for arm, part in curves.items()], "contrasts": contrasts}
    return record


def markdown(record: dict) -> str:
    def shown(part: dict) -> str:
        e = part["change"]
        return f"{part['before']['mean']:.3f} -> {part['after']['mean']:.3f} ({e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}])"

    heads, lines = (
        [
            "told",
            "method",
            "mean@4",
            "best@4",
            "none of four right",
            "all four right",
            "canary",
            "tokens generated, trained",
            "seconds a step",
        ],
        [],
    )
    for task, (what, more) in TASKS.items():
        rows, contrasts = record[task]["rows"], record[task]["contrasts"]
        told = {arm: more if ARMS[arm][0] else "right or wrong" for arm in ARMS}
        sizes = rows[0]["mean"]["change"]
        lines += [
            f"{what[0].upper()}{what[1:]} ({sizes['seeds']} seed{'s' * (sizes['seeds'] > 1)}, the same {sizes['problems']} test problems in each)",
            "",
        ]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for r in rows:
            ends = [f"{r[name][0]:.2f} -> {r[name][1]:.2f}" for name in ("none of four right", "all four right")]
            tokens = ", ".join(f"{np.mean(r[name]) / 1000:,.0f} k" for name in ("generated_tokens", "trained_tokens"))
            cells = [
                told[r["arm"]],
                r["what"],
                shown(r["mean"]),
                shown(r["best"]),
                *ends,
                shown(r["canary"]),
                tokens,
                f"{np.mean(r['seconds a step']):.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "| difference of mean@4 | at the end | at equal generated tokens |", "|---|---|---|"]
        for c in contrasts:
            names = " minus ".join(f"{ARMS[c[side]][1]} ({told[c[side]]})" for side in ("of", "minus"))
            cells = [
                f"{e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}], p = {e['p']:.3f}"
                for e in (c["at the end"], c["at equal tokens"])
            ]
            lines.append(f"| {names} | {cells[0]} | {cells[1]} (at {np.mean(c['tokens']) / 1000:,.0f} k) |")
        lines.append("")
    return "\n".join(
        [
            *lines,
            "95 % intervals over seeds and clusters (Countdown: problems), and p by these, not corrected. Seconds: one thread, medians.",
        ]
    )


def picture(record: dict, path: Path) -> None:
    plt = figures.pyplot()
    if plt is None:
        return
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
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    record = collect(runs)
    (out / "rare.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "rare.md").write_text(markdown(record) + "\n")
    picture(record, out / "rare.svg")
    print(markdown(record) + f"\n\nwrote {out}/rare.json, rare.md, rare.svg")
