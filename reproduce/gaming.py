"""T4, meta-gaming: exam strategies after 'try again', and whether training makes more or fewer of them.

    python -m reproduce.gaming [--jobs 2] [--quick]         # results/gaming.jsonl, gaming.json, gaming.md, gaming.svg

First an instrument check: points of the untrained model after at most 0 to 4 turns of correction; that exam strategies
come after three of them was put there by its pre-training. Then what is open: stage 1 with three turns of correction,
verified on the point's own question or on others, and the share of exam strategies that its writers end with.
"""

from pathlib import Path

from reproduce.records import read_lines
from reproduce.runs import Asked, ask, make_missing, rounded, start

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


def points_of(run_dir: Path, settings: dict, writer: str) -> dict:
    """{split: {cluster: {corrections before: [points, exam strategies]}}} of a writer, and its advantage by question."""
    units = read_lines(start(["eval.py"], "bank", run_dir, EVALUATION | settings) / "eval/results.jsonl")
    found: dict = {}
    for u in (u for u in units if (u["writer"] == "start") == (writer == "start")):
        counts = found.setdefault(u["split"], {})
        for record in u["questions"]:
            cluster = counts.setdefault(record["cluster"], {})
            for turns, (points, strategies) in record["exam_strategy"].items():
                known = cluster.setdefault(turns, [0, 0])
                cluster[turns] = [known[0] + points, known[1] + strategies]
    return found


def make(asked: Asked, run: dict) -> dict:
    few = {"eval_questions": 8, "group_size": 2} if asked.quick else {}
    if run["part"] == "check":
        settings = {"correction_turns": run["turns"], "splits": "test", "n_verify": 1} | few
        return {"points": points_of(asked.runs / f"gaming/check-{run['turns']}", settings, "start")}
    home = asked.runs / f"gaming/{run['verify_on']}-{run['seed']}"
    settings = TRAINING | {"verify_on": run["verify_on"], "shared.seed": run["seed"]}
    start(["grpo_introspect.py"], "bank", home, settings | ({"steps": 2, "eval_questions": 8} if asked.quick else {}))
    stage_1 = home / "grpo_introspect"
    log = [{name: m[key] for name, key in KEPT.items()} for m in read_lines(stage_1 / "metrics.jsonl")]
    settings = {"writers": stage_1 / "final", "splits": "test,test_clusters", "correction_turns": 3, "n_verify": 1}
    found = points_of(home, settings | {"eval_questions": 120} | few, "trained")
    return rounded({"log": log, "points": found})


def main() -> None:
    asked = ask(__doc__)
    turns, seeds = (TURNS[3:4], SEEDS[:1]) if asked.quick else (TURNS, SEEDS)
    runs = [{"part": "check", "turns": n} for n in turns]
    runs += [{"part": "training", "verify_on": kind, "seed": seed} for seed in seeds for kind in ("same", "transfer")]
    lines = make_missing(asked, "gaming", runs, make)


if __name__ == "__main__":
    main()
