"""Puts the runs of reproduce/rare.sh together: results/rare.json, rare.md and rare.svg (table T14).

The unit is the problem; all seeds are measured on the same ones. mean@4 and best@4: of four answers to each problem of the split test.
At equal tokens: each problem's accuracy where a run has generated as many tokens as the thriftier of the two had at its end, by
straight lines between evaluations.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retry import estimate

import figures

ARMS = {  # what is revealed, method
    "grpo": ("right or wrong", "GRPO, G = 8"),
    "sdpo-8-nothing": ("right or wrong", "SDPO, G = 8"),
    "resd-nothing": ("right or wrong", "Resd, G = 1"),
    "sdpo-8": ("the right answer", "SDPO, G = 8"),
    "sdpo-1": ("the right answer", "SDPO, G = 1"),
    "sdpo-1-context": ("the right answer", "SDPO, G = 1, with reflection and playbook"),
    "resd": ("the right answer", "Resd, G = 1"),
    "resd-no-reflection": ("the right answer", "Resd without reflection"),
    "resd-no-playbook": ("the right answer", "Resd without playbook"),
    "resd-no-buffer": ("the right answer", "Resd without solution buffer"),
    "resd-then-grpo": ("the right answer", "Resd for half of the updates, then GRPO"),
}
CONTRASTS = [  # the first two are those that were named before the runs
    ("resd", "sdpo-1"), ("sdpo-8", "grpo"), ("sdpo-8-nothing", "grpo"), ("resd-nothing", "grpo"), ("sdpo-1-context", "sdpo-1"), ("resd", "sdpo-8"),
    ("resd", "resd-no-reflection"), ("resd", "resd-no-playbook"), ("resd", "resd-no-buffer"), ("resd-then-grpo", "grpo"), ("resd-then-grpo", "resd"),
]  # fmt: skip


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve_of(run: Path) -> dict:
    """A run's evaluations by generated tokens, its stages one after the other: tokens (E,), each [{split: {problem: accuracy}}], cost."""
    tokens, each, cost = [], [], {"generated_tokens": 0, "trained_tokens": 0, "seconds": []}
    for stage in [run / name for name in ("resd", "sdpo", "grpo") if (run / name).exists()]:
        steps = {r["step"]: r for r in read(stage / "metrics.jsonl")}
        for r in read(stage / "eval.jsonl"):
            if r["step"] or not tokens:  # a second stage starts where the first one ended
                tokens.append(cost["generated_tokens"] + (steps[r["step"]]["generated_tokens"] if r["step"] else 0))
                each.append(r["each"])
        last = steps[max(steps)]
        cost = {name: cost[name] + last[name] for name in ("generated_tokens", "trained_tokens")} | {"seconds": cost["seconds"] + [r["time/step"] for r in steps.values()]}
    return {"tokens": tokens, "each": each, **cost}


def at(curve: dict, tokens: float) -> dict[str, float]:
    """Accuracy of each test problem when `tokens` had been generated."""
    return {p: float(np.interp(tokens, curve["tokens"], [e["test"][p] for e in curve["each"]])) for p in curve["each"][0]["test"]}


def less(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {p: a[p] - b[p] for p in a}


def row_of(arm: str, curves: list[dict]) -> dict:
    row = {"arm": arm, "revealed": ARMS[arm][0], "what": ARMS[arm][1]}
    row |= {name: [c[name] for c in curves] for name in ("generated_tokens", "trained_tokens")}
    row["seconds a step"] = [float(np.median(c["seconds"])) for c in curves]
    for name, split, value in (("mean", "test", float), ("best", "test", lambda v: float(v > 0)), ("canary", "canary", float)):
        ends = [[{p: value(v) for p, v in c["each"][k][split].items()} for c in curves] for k in (0, -1)]
        row[name] = {"before": estimate(ends[0]), "after": estimate(ends[1]), "change": estimate([less(b, a) for a, b in zip(*ends, strict=True)])}
    for name, value in (("none of four right", 0), ("all four right", 1)):
        row[name] = [float(np.mean([v == value for c in curves for v in c["each"][k]["test"].values()])) for k in (0, -1)]
    row["curve"] = [[t, float(np.mean(list(e["test"].values())))] for c in curves for t, e in zip(c["tokens"], c["each"], strict=True)]
    return row


def collect(runs: Path) -> dict:
    curves = {arm: [curve_of(path) for path in sorted(runs.glob(f"{arm}-[0-9]"))] for arm in ARMS}
    contrasts = []
    for a, b in CONTRASTS:
        pairs = list(zip(curves[a], curves[b], strict=True))
        last, budget = [less(x["each"][-1]["test"], y["each"][-1]["test"]) for x, y in pairs], [min(x["tokens"][-1], y["tokens"][-1]) for x, y in pairs]
        same = [less(at(x, t), at(y, t)) for (x, y), t in zip(pairs, budget, strict=True)]
        contrasts.append({"of": a, "minus": b, "at the end": estimate(last), "at equal tokens": estimate(same), "tokens": budget})
    return {"rows": [row_of(arm, part) for arm, part in curves.items()], "contrasts": contrasts}


def markdown(record: dict) -> str:
    def shown(part: dict) -> str:
        e = part["change"]
        return f"{part['before']['mean']:.3f} -> {part['after']['mean']:.3f} ({e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}])"

    heads = ["revealed", "method", "mean@4", "best@4", "none of four right", "all four right", "canary: function calling", "tokens generated, trained", "seconds a step"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in record["rows"]:
        ends = [f"{r[name][0]:.2f} -> {r[name][1]:.2f}" for name in ("none of four right", "all four right")]
        tokens = ", ".join(f"{np.mean(r[name]) / 1000:,.0f} k" for name in ("generated_tokens", "trained_tokens"))
        lines.append("| " + " | ".join([r["revealed"], r["what"], shown(r["mean"]), shown(r["best"]), *ends, shown(r["canary"]), tokens, f"{np.mean(r['seconds a step']):.2f}"]) + " |")
    lines += ["", "| difference of mean@4 | at the end | at equal generated tokens |", "|---|---|---|"]
    for c in record["contrasts"]:
        names = " minus ".join(", ".join(reversed(ARMS[c[side]])) for side in ("of", "minus"))
        cells = [f"{e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}], p = {e['p']:.3f}" for e in (c["at the end"], c["at equal tokens"])]
        lines.append(f"| {names} | {cells[0]} | {cells[1]} (at {np.mean(c['tokens']) / 1000:,.0f} k) |")
    sizes = record["rows"][0]["mean"]["change"]
    return "\n".join([*lines, f"\n{sizes['seeds']} seed{'s' * (sizes['seeds'] > 1)}, the same {sizes['problems']} test problems in each, 95 % intervals over both; p by problem, not corrected. Seconds: one thread, medians."])


def picture(record: dict, path: Path) -> None:
    plt = figures.pyplot()
    if plt is None:
        return
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    colors = {"grpo": figures.GREEN, "sdpo-8-nothing": figures.GREY, "resd-nothing": figures.INK, "sdpo-8": figures.PURPLE, "sdpo-1": figures.ORANGE, "resd": figures.BLUE}
    for row in [r for r in record["rows"] if r["arm"] in colors]:
        curve = np.array(row["curve"]).reshape(row["mean"]["change"]["seeds"], -1, 2).mean(0)  # (E, 2)
        axis.plot(curve[:, 0] / 1000, curve[:, 1], "o-", markersize=3, color=colors[row["arm"]], label=f"{row['what']} ({row['revealed']})")
    axis.set_xlabel("thousand tokens generated")
    axis.set_ylabel("mean@4, test problems")
    axis.set_ylim(0)
    sizes = record["rows"][0]["mean"]["change"]
    axis.set_title(f"Countdown with rare success: accuracy against generated tokens ({sizes['seeds']} seeds, {sizes['problems']} problems)", fontsize=8)
    axis.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    record = collect(runs)
    (out / "rare.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "rare.md").write_text(markdown(record) + "\n")
    picture(record, out / "rare.svg")
    print(markdown(record) + f"\n\nwrote {out}/rare.json, rare.md, rare.svg")
