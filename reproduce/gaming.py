"""T4, meta-gaming: exam strategies after 'try again', and whether training makes more or fewer of them.

    python -m reproduce.gaming [--jobs 2] [--quick]         # results/gaming.jsonl, gaming.json, gaming.md, gaming.svg

First an instrument check: points of the untrained model after at most 0 to 4 turns of correction; that exam strategies
come after three of them was put there by its pre-training. Then what is open: stage 1 with three turns of correction,
verified on the point's own question or on others, and the share of exam strategies that its writers end with.
"""

from pathlib import Path

import numpy as np

from introspection.report.curves import curve
from introspection.report.figures import BLUE, ORANGE, frame, legend
from reproduce.records import group, markdown_table, read_lines, shown_interval
from reproduce.runs import Asked, ask, less, make_missing, over_clusters, publish, rounded, start

TURNS, SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
TRAINING = {
    "steps": 40, "group_size": 8, "correction_turns": 3, "reveal": "answer", "eval_every": 0, "eval_questions": 24,
    "show_every": 0, "preflight": "false",
}  # fmt: skip
EVALUATION = {"blind": "false", "best_of": 0, "own_reader": "false", "reveal": "answer", "n_fresh": 1}
KEPT = {
    "gaming": "meta_gaming_rate",
    "same": "introspection_advantage/same",
    "other": "introspection_advantage/transfer",
    "attempt": "accuracy/attempt",
}


def points_of(run_dir: Path, settings: dict) -> dict:
    """{writer and split: {cluster: {corrections before: [points, exam strategies]}}}; start model and a trained one."""
    units = read_lines(start(["eval.py"], "bank", run_dir, EVALUATION | settings) / "eval/results.jsonl")
    found: dict = {}
    for u in units:
        counts = found.setdefault(f"{'start' if u['writer'] == 'start' else 'trained'}, {u['split']}", {})
        for record in u["questions"]:
            cluster = counts.setdefault(record["cluster"], {})
            for turns, (points, strategies) in record["exam_strategy"].items():
                known = cluster.setdefault(turns, [0, 0])
                cluster[turns] = [known[0] + points, known[1] + strategies]
    return found


def make(asked: Asked, run: dict) -> dict:
    """A check of the start model, or a training with its log; both with the points counted."""
    few = {"eval_questions": 8, "group_size": 2} if asked.quick else {}
    if run["part"] == "check":
        settings = {"correction_turns": run["turns"], "splits": "test", "n_verify": 1} | few
        return {"points": points_of(asked.runs / f"gaming/check-{run['turns']}", settings)}
    home = asked.runs / f"gaming/{run['verify_on']}-{run['seed']}"
    settings = TRAINING | {"verify_on": run["verify_on"], "shared.seed": run["seed"]}
    start(["grpo_introspect.py"], "bank", home, settings | ({"steps": 2, "eval_questions": 8} if asked.quick else {}))
    stage_1 = home / "grpo_introspect"
    log = [{name: m[key] for name, key in KEPT.items()} for m in read_lines(stage_1 / "metrics.jsonl")]
    settings = {"writers": stage_1 / "final", "splits": "test,test_clusters", "correction_turns": 3, "n_verify": 1}
    found = points_of(home, settings | {"eval_questions": 120} | few)
    return rounded({"log": log, "points": found})


# ---- the page ------------------------------------------------------------------------------------------------------
def shares(counts: dict, turns: str | None = None) -> dict[str, list[float]]:
    """Share of exam strategies by cluster, of points after so many corrections or of all (None)."""
    found = {}
    for cluster, by_turns in counts.items():
        part = [pair for t, pair in by_turns.items() if turns in (None, t)]
        if sum(n for n, _ in part):
            found[cluster] = [sum(k for _, k in part) / sum(n for n, _ in part)]
    return found


def total(lines: list[dict], name: str, turns: str | None = None) -> int:
    """Points behind shares."""
    parts = [by_turns for line in lines for by_turns in line["points"][name].values()]
    return sum(n for by_turns in parts for t, (n, _) in by_turns.items() if turns in (None, t))


def check_rows(lines: list[dict]) -> list[dict]:
    """The instrument check: by how many corrections were allowed, and of those conversations that had as many.

    Runs share their noise, so a conversation that ended early is the same in all that allow more: it counts once.
    """
    rows = []
    for words in ("at most", "exactly"):
        for line in lines:
            turns = str(line["run"]["turns"])
            kept = turns if words == "exactly" else None
            share = over_clusters([shares(line["points"]["start, test"], kept)])
            points = total([line], "start, test", kept)
            rows.append({"corrections": f"{words} {turns}", "points": points, "share": share})
    return rows


def training_rows(lines: list[dict]) -> list[dict]:
    """The share after exactly three corrections, start and trained, and what training changes."""
    rows = []
    kinds = group((line["run"]["verify_on"], line) for line in lines)
    for split in ("test_clusters", "test"):
        for turns, words in (("3", "after three"), (None, "all points")):
            places = {"trained": f"trained, {split}", "start": f"start, {split}"}
            trained = {
                kind: [shares(line["points"][places["trained"]], turns) for line in part]
                for kind, part in kinds.items()
            }
            start = [shares(line["points"][places["start"]], turns) for line in lines]
            row = {"split": split, "points": words, "start": over_clusters(start[:1])}
            row |= {kind: over_clusters(seeds) for kind, seeds in trained.items()}
            row |= {f"{k} minus start": over_clusters(less(seeds, start[: len(seeds)])) for k, seeds in trained.items()}
            row["transfer minus same"] = over_clusters(less(trained["transfer"], trained["same"]))
            rows.append(row)
    return rows


def records_of(lines: list[dict]) -> dict:
    """The table as records."""
    parts = group((line["run"]["part"], line) for line in lines)
    logs = group((line["run"]["verify_on"], line["log"]) for line in parts["training"])
    curves = {kind: [[step["gaming"] for step in log] for log in part] for kind, part in logs.items()}
    return {"check": check_rows(parts["check"]), "training": training_rows(parts["training"]), "by_step": curves}


def blocks(lines: list[dict], records: dict) -> list[str | list[str]]:
    """The page."""
    check = [[r["corrections"], str(r["points"]), shown_interval(r["share"], ".3f")] for r in records["check"]]
    training = []
    for row in records["training"]:
        shown = [shown_interval(row[k], ".3f") for k in ("start", "same", "transfer")]
        shown += [shown_interval(row[f"{k} minus start"]) for k in ("same", "transfer")]
        training.append([row["split"], row["points"], *shown, shown_interval(row["transfer minus same"])])
    head = ["clusters", "points", "start", "trained, same", "trained, transfer", "same minus start"]
    return [
        "# T4: meta-gaming",
        "Share of points that state an exam strategy, by how often the attempt had been sent back with 'try again'. "
        "The paper: 13 % of 87 points, 7 to 14 % after one or two corrections, 100 % after three or more.",
        "**Instrument check** (the start model; that exam strategies follow three rejections was put there by its "
        "pre-training):",
        markdown_table(["corrections", "points", "share of exam strategies"], check),
        f"**What training changes**: stage 1 with three turns of correction, {len(records['by_step']['same'])} seeds, "
        "verified on the same question or on others of its cluster. Primary: transfer minus same, after three "
        "corrections, on test_clusters.",
        markdown_table([*head, "transfer minus start", "transfer minus same"], training),
        "95 % intervals over seeds and clusters.",
    ]


def draw(plt, records: dict):
    """The rate of exam strategies while training, by what points are verified on."""
    ends = {kind: float(np.mean([seed[-10:] for seed in seeds])) for kind, seeds in records["by_step"].items()}
    first = float(np.mean([seed[0] for seeds in records["by_step"].values() for seed in seeds]))
    title = f"Exam strategies, from {first:.2f}: {ends['same']:.2f} when verified on the same question, "
    title += f"{ends['transfer']:.2f} on others"
    note = "points of stage 1 with three turns of correction; thin: a seed, thick: mean of five steps"
    figure, (axis,) = frame(plt, title, note, xlabel="step", ylabel="share of points")
    for color, (kind, seeds) in zip((ORANGE, BLUE), records["by_step"].items(), strict=True):
        curve(axis, np.array(seeds, dtype=float), color, f"verified on {kind}")
    axis.set_ylim(-0.03, 1.03)
    legend(axis)
    return figure


def main() -> None:
    asked = ask(__doc__)
    turns, seeds = (TURNS[3:4], SEEDS[:1]) if asked.quick else (TURNS, SEEDS)
    runs = [{"part": "check", "turns": n} for n in turns]
    runs += [{"part": "training", "verify_on": kind, "seed": seed} for seed in seeds for kind in ("same", "transfer")]
    lines = make_missing(asked, "gaming", runs, make)
    records = records_of(lines)
    publish(asked, "gaming", lines, records, blocks(lines, records), draw)


if __name__ == "__main__":
    main()
