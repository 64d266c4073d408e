"""Puts the runs of reproduce/retry.sh together: results/retry.json and retry.md (table T13).

The unit is the problem; seeds draw their own problems of the split test. Pass@4: right in at least one of the four answers to a problem.
"""

import json
import sys
from pathlib import Path

import numpy as np

from introspection.stats import sign_flip

TASKS = {"countdown": "Countdown", "calls": "function calling"}
ARMS = {
    "reflect": "Reflect, Retry, Reward",
    "control": "the same without reflection",
    "grpo": "GRPO on first answers",
    "ssd": "SSD",
    "sft": "SFT on gold answers",
}
COLUMNS = {
    "first": "first try",
    "second": "second try",
    "second without reflection": "second try without reflection",
    "pass": "pass@4",
    "canary": "first try, other task",
}


def chance(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}"


def estimate(seeds: list[dict[str, float]], resamples: int = 4000) -> dict:
    """Mean over seeds of the mean over their problems, its 95 % interval, and p of 'the mean is 0' (problems, over the seeds that drew them).

    The interval draws seeds and, once for all of them, problems: seeds share many, which a draw for each would count as different ones.
    """
    draw, names = np.random.default_rng(0), list(dict.fromkeys(p for seed in seeds for p in seed))
    asked_SP = np.array([[p in seed for p in names] for seed in seeds])
    values_SP = np.array([[seed.get(p, 0.0) for p in names] for seed in seeds])
    counts_RP = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    means_RS = (counts_RP @ values_SP.T) / np.maximum(counts_RP @ asked_SP.T, 1)
    drawn = np.take_along_axis(means_RS, draw.integers(len(seeds), size=(resamples, len(seeds))), axis=1).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    means = values_SP.sum(0) / asked_SP.sum(0)
    return {
        "mean": float(np.mean([np.mean(list(seed.values())) for seed in seeds])), "low": low, "high": high, "p": sign_flip(means),
        "problems": len(seeds[0]), "seeds": len(seeds),
    }  # fmt: skip


def columns_of(path: Path) -> tuple[dict[str, dict], dict[str, dict], dict]:
    """What each problem of the split test got before and after, by column, and the last line of the log."""
    records, ends = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()], []
    for k in (0, -1):
        first = [r for r in records if "accuracy" in r][k]["each"]
        found = {
            "first": first["test"],
            "canary": first["canary"],
            "pass": {p: float(value > 0) for p, value in first["test"].items()},
        }
        tries = [r for r in records if "tries" in r]
        if tries:  # their own first answers, so that second tries belong to them
            found |= tries[k]["tries"]["test"]["each"]
        ends.append(found)
    return *ends, json.loads((path / "metrics.jsonl").read_text().splitlines()[-1]) | {
        "reflection_tokens": [r["tries"]["test"]["reflection_tokens"] for r in tries]
    }


def collect(runs: Path) -> list[dict]:
    rows = []
    for task in TASKS:
        for arm, what in ARMS.items():
            ends = [
                columns_of(path / stage)
                for path in sorted(runs.glob(f"{task}-{arm}-[0-9]*"))
                for stage in ("reflect_retry", "grpo", "ssd", "sft")
                if (path / stage).exists()
            ]
            row = {
                "task": task,
                "arm": arm,
                "what": what,
                "generated_tokens": [last["generated_tokens"] for *_, last in ends],
                "trained_tokens": [last["trained_tokens"] for *_, last in ends],
            }
            row["reflection_tokens"] = [last["reflection_tokens"] for *_, last in ends]
            for name in ends[0][0]:
                row[name] = {
                    "before": estimate([before[name] for before, *_ in ends]),
                    "after": estimate([after[name] for _, after, _ in ends]),
                }
                row[name]["change"] = estimate(
                    [{p: after[name][p] - value for p, value in before[name].items()} for before, after, _ in ends]
                )
            rows.append(row)
        with_, without = (
            next(r for r in rows if (r["task"], r["arm"]) == (task, arm)) for arm in ("reflect", "control")
        )
        # The claim of the source: reflecting, after training, beats trying again at once, after training the same number of steps.
        seeds = [
            [columns_of(path / "reflect_retry")[1] for path in sorted(runs.glob(f"{task}-{arm}-[0-9]*"))]
            for arm in ("reflect", "control")
        ]
        pairs = [
            {p: a["second"][p] - b["second without reflection"][p] for p in a["second"]}
            for a, b in zip(*seeds, strict=True)
        ]
        with_["second try against the control's"] = estimate(pairs)
        without["of each seed"] = [float(np.mean(list(b["second without reflection"].values()))) for b in seeds[1]]
    return rows


def markdown(rows: list[dict]) -> str:
    def shown(part: dict | None) -> str:
        if part is None:
            return ""
        e = part["change"]
        return f"{part['before']['mean']:.3f} -> {part['after']['mean']:.3f} ({e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}])"

    lines = [
        "| task | method | " + " | ".join(COLUMNS.values()) + " | tokens generated, trained |",
        "|" + "---|" * (len(COLUMNS) + 3),
    ]
    for r in rows:
        tokens = ", ".join(f"{np.mean(r[name]) / 1000:,.0f} k" for name in ("generated_tokens", "trained_tokens"))
        lines.append(
            f"| {TASKS[r['task']]} | {r['what']} | "
            + " | ".join(shown(r.get(name)) for name in COLUMNS)
            + f" | {tokens} |"
        )
    for r in rows:
        if "second try against the control's" in r:
            e = r["second try against the control's"]
            lines.append(
                f"\n{TASKS[r['task']]}: second try after a reflection, trained, minus second try of the trained control: {e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}], p {chance(e['p'])}"
            )
    sizes = {TASKS[r["task"]]: r["first"]["change"] for r in rows}
    asked = ", ".join(f"{name} {e['seeds']} seeds and {e['problems']} problems of each" for name, e in sizes.items())
    return "\n".join(
        [
            *lines,
            f"\nMeans over seeds and problems of the split test ({asked}), 95 % intervals over both; a problem that is right at the first try counts as right at the second, so contrasts of second tries contain those of first tries.",
        ]
    )


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs)
    (out / "retry.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "retry.md").write_text(markdown(rows) + "\n")
    print(markdown(rows) + f"\n\nwrote {out}/retry.json, {out}/retry.md")
