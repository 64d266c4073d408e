"""T2, the paper's stability run: 23 steps of its first procedure with all fixes, five seeds.

    python -m reproduce.stability [--jobs 2] [--quick]      # results/stability.jsonl, stability.json, .md, .svg

Winners only, the tokens of the learning point, 32 attempts on one question a step, each point verified on its own
question ('validation') and on another of its cluster ('regularisation'), held against fresh answers without a point.
"""

import numpy as np

from introspection.report.figures import BLUE, GREY, ORANGE, frame, legend
from introspection.stats import mean
from reproduce.records import group, markdown_table, shown_interval
from reproduce.runs import Asked, ask, make_missing, over_clusters, over_seeds, publish
from reproduce.trained import in_ten, slope, train

SETTINGS = {
    "steps": 23, "questions_per_step": 1, "group_size": 32, "contributors": "winners", "mask": "learning_point",
    "train_loser_attempt": "false", "verify_on": "both", "n_verify": 1, "n_fresh": 4, "baseline": "fresh",
    "eval_every": 8, "eval_questions": 24, "show_every": 0, "preflight": "false",
}  # fmt: skip
SEEDS = (0, 1, 2, 3, 4)


# ---- the page ------------------------------------------------------------------------------------------------------
KINDS = {"same": "the point's own question", "other": "another question of its cluster"}


def by_cluster(line: dict, kind: str) -> dict[str, list[float]]:
    """Advantages of the steps that had any point, by the cluster of their question."""
    return group((step["cluster"], step[kind]) for step in line["log"] if step[kind] is not None)


def canary_of(line: dict, place: int) -> float:
    return line["evaluations"][place]["accuracy/canary"]


def records_of(lines: list[dict]) -> dict:
    """The table as records."""
    found = {kind: over_clusters([by_cluster(line, kind) for line in lines]) for kind in KINDS}
    slopes = {kind: over_seeds([slope(line["log"], kind, "cluster") for line in lines]) for kind in KINDS}
    steps = max(len(line["log"]) for line in lines)
    each = {k: [mean(line["log"][t][k] for line in lines) for t in range(steps)] for k in (*KINDS, "attempt")}
    above = {
        kind: [float(v > 0) for line in lines for v in (s[kind] for s in line["log"]) if v is not None]
        for kind in KINDS
    }
    canary = over_seeds([canary_of(line, -1) - canary_of(line, 0) for line in lines])
    attempts = over_seeds([slope(line["log"], "attempt", "question") for line in lines])
    seeds = {
        kind: [mean(v for values in by_cluster(line, kind).values() for v in values) for line in lines]
        for kind in KINDS
    }
    start, end = (mean(canary_of(line, place) for line in lines) for place in (0, -1))
    return {
        "advantage": found, "change": {kind: in_ten(e) for kind, e in slopes.items()}, "seeds": seeds,
        "above 0": {kind: mean(values) for kind, values in above.items()}, "by_step": each,
        "canary": canary | {"before": start, "after": end}, "attempts": in_ten(attempts),
    }  # fmt: skip


def blocks(lines: list[dict], records: dict) -> list[str | list[str]]:
    """The page."""
    cells = []
    for kind, words in KINDS.items():
        each = ", ".join(f"{v:+.3f}" for v in records["seeds"][kind])
        shown = [words, shown_interval(records["advantage"][kind]), each, f"{records['above 0'][kind]:.2f}"]
        cells.append([*shown, shown_interval(records["change"][kind])])
    canary = records["canary"]
    return [
        "# T2: the paper's stability run",
        f"Winners only, point tokens, 32 attempts on one question a step, plain SGD, {len(records['by_step']['same'])} "
        f"steps, {len(lines)} seeds. Accuracy with a point minus fresh accuracy without; t intervals over clusters and "
        "seeds (of a change, within each cluster: over seeds). Primary: the advantage on another question.",
        markdown_table(["verified on", "advantage", "each seed", "steps above 0", "change in ten steps"], cells),
        [
            f"- canary {canary['before']:.3f} -> {canary['after']:.3f}, change {shown_interval(canary)}",
            f"- accuracy of first attempts, change in ten steps {shown_interval(records['attempts'])}",
        ],
    ]


def draw(plt, records: dict):
    """Both advantages step by step: means over seeds."""
    same, other = (records["advantage"][kind] for kind in KINDS)
    title = f"A winner's point is worth {same['mean']:+.2f} on its own question, {other['mean']:+.2f} on another"
    note = "means over seeds; one question a step, some with a single winner, so steps differ by their question"
    figure, (axis,) = frame(plt, title, note, xlabel="step", ylabel="introspection advantage")
    for color, (kind, words) in zip((BLUE, ORANGE), KINDS.items(), strict=True):
        values = [np.nan if v is None else v for v in records["by_step"][kind]]
        axis.plot(range(1, len(values) + 1), values, "o-", color=color, markersize=3, linewidth=1, label=words)
    axis.axhline(0, color=GREY, linewidth=0.6)
    legend(axis)
    return figure


def make(asked: Asked, run: dict) -> dict:
    fewer = {"steps": 2, "eval_every": 0, "eval_questions": 8} if asked.quick else {}
    settings = SETTINGS | {"shared.seed": run["seed"]} | fewer
    return train(asked.runs / f"stability/{run['seed']}", "paper", settings)


def main() -> None:
    asked = ask(__doc__)
    runs = [{"arm": "winners", "seed": seed} for seed in (SEEDS[:1] if asked.quick else SEEDS)]
    lines = make_missing(asked, "stability", runs, make)
    records = records_of(lines)
    publish(asked, "stability", lines, records, blocks(lines, records), draw)


if __name__ == "__main__":
    main()
