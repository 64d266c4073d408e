"""Puts the runs of reproduce/retry.sh together: results/retry.json and retry.md (table T13).

The unit is the problem; seeds draw their own problems of the split test. Pass@4: right in at least one of the four
answers to a problem.
"""

import sys
from pathlib import Path

import numpy as np

from introspection.stats import sign_flip
from reproduce.records import markdown_table, read_lines, shown_change, shown_interval, shown_tokens, write_table

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


def bootstrap_problems(seeds: list[dict[str, float]], resamples: int = 4000) -> dict:
    """Mean over seeds of the mean over their problems, its 95 % interval, and p of 'the mean is 0'.

    The interval draws seeds and, once for all of them, problems: seeds share many, which a draw for each would count as
    different ones. p is of problems, each over the seeds that drew it.
    """
    draw, names = np.random.default_rng(0), list(dict.fromkeys(p for seed in seeds for p in seed))
    asked_SP = np.array([[p in seed for p in names] for seed in seeds])
    values_SP = np.array([[seed.get(p, 0.0) for p in names] for seed in seeds])
    counts_RP = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    means_RS = (counts_RP @ values_SP.T) / np.maximum(counts_RP @ asked_SP.T, 1)
    drawn_RS = draw.integers(len(seeds), size=(resamples, len(seeds)))
    means_R = np.take_along_axis(means_RS, drawn_RS, axis=1).mean(1)
    low, high = np.quantile(means_R, [0.025, 0.975]).tolist()
    means_P = values_SP.sum(0) / asked_SP.sum(0)
    by_seed = [float(np.mean(list(seed.values()))) for seed in seeds]
    return {
        "mean": float(np.mean(by_seed)), "low": low, "high": high, "p": sign_flip(means_P),
        "problems": len(seeds[0]), "seeds": len(seeds), "by_seed": by_seed,
    }  # fmt: skip


def ends_of(path: Path) -> tuple[dict[str, dict], dict[str, dict], dict]:
    """What each problem of the split test got before and after, by column, and the last line of the log."""
    records, ends = read_lines(path / "eval.jsonl"), []
    answers = [r["each"] for r in records if "accuracy" in r]
    tries = [r["tries"]["test"] for r in records if "tries" in r]
    for k in (0, -1):
        first, own = answers[k], tries[k]["each"] if tries else {}  # own first answers: second tries belong to them
        passed = {p: float(value > 0) for p, value in first["test"].items()}
        ends.append({"first": first["test"], "canary": first["canary"], "pass": passed} | own)
    return *ends, read_lines(path / "metrics.jsonl")[-1] | {
        "reflection_tokens": [r["reflection_tokens"] for r in tries]
    }


def stages_of(runs: Path, task: str, arm: str) -> list[Path]:
    """The stage folder of each seed of an arm."""
    names, homes = ("reflect_retry", "grpo", "ssd", "sft"), sorted(runs.glob(f"{task}-{arm}-[0-9]*"))
    return [home / name for home in homes for name in names if (home / name).exists()]


def differences(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {p: a[p] - b[p] for p in a}


def estimate_change(before: list[dict], after: list[dict], estimate=bootstrap_problems) -> dict:
    """What seeds got before and after, and the difference problem by problem."""
    change = [differences(b, a) for a, b in zip(before, after, strict=True)]
    return {"before": estimate(before), "after": estimate(after), "change": estimate(change)}


def row_of(task: str, arm: str, ends: list[tuple]) -> dict:
    names = ("generated_tokens", "trained_tokens", "reflection_tokens")
    return {
        "task": task,
        "arm": arm,
        "what": ARMS[arm],
        **{name: [last[name] for *_, last in ends] for name in names},
        **{name: estimate_change(*([end[k][name] for end in ends] for k in (0, 1))) for name in ends[0][0]},
    }


def collect(runs: Path) -> list[dict]:
    """A row for each arm of each task, and the source's own contrast."""
    rows = []
    for task in TASKS:
        ends = {arm: [ends_of(stage) for stage in stages_of(runs, task, arm)] for arm in ARMS}
        made = {arm: row_of(task, arm, part) for arm, part in ends.items()}
        # The claim of the source: reflecting, after training, beats trying again at once, after training the same
        # number of steps.
        reflected = [after["second"] for _, after, _ in ends["reflect"]]
        at_once = [after["second without reflection"] for _, after, _ in ends["control"]]
        pairs = [differences(a, b) for a, b in zip(reflected, at_once, strict=True)]
        made["reflect"]["second try against the control's"] = bootstrap_problems(pairs)
        made["control"]["of each seed"] = [float(np.mean(list(seed.values()))) for seed in at_once]
        rows += made.values()
    return rows


def markdown(rows: list[dict]) -> str:
    """The table, the contrasts, and what they rest on."""
    cells, claims = [], []
    for r in rows:
        cells.append(
            [
                TASKS[r["task"]],
                r["what"],
                *(shown_change(r[name]) if name in r else "" for name in COLUMNS),
                shown_tokens(r),
            ]
        )
        if "second try against the control's" in r:
            e = r["second try against the control's"]
            p = "< 0.0001" if e["p"] < 1e-4 else f"= {e['p']:.4f}"
            claims.append(
                f"\n{TASKS[r['task']]}: second try after a reflection, trained, minus second try of the trained "
                f"control: {shown_interval(e)}, p {p}"
            )
    lines = markdown_table(["task", "method", *COLUMNS.values(), "tokens generated, trained"], cells)
    sizes = {TASKS[r["task"]]: r["first"]["change"] for r in rows}
    asked = ", ".join(f"{name} {e['seeds']} seeds and {e['problems']} problems of each" for name, e in sizes.items())
    claims.append(
        f"\nMeans over seeds and problems of the split test ({asked}), 95 % intervals over both; a problem that is "
        "right at the first try counts as right at the second, so contrasts of second tries contain those of first "
        "tries."
    )
    return "\n".join([*lines, *claims])


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs)
    write_table(out, "retry", rows, markdown(rows))
