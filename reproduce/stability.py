"""T2, the paper's stability run: 23 steps of its first procedure with all fixes, five seeds.

    python -m reproduce.stability [--jobs 2] [--quick]      # results/stability.jsonl, stability.json, .md, .svg

Winners only, the tokens of the learning point, 32 attempts on one question a step, each point verified on its own
question ('validation') and on another of its cluster ('regularisation'), held against fresh answers without a point.
"""

from reproduce.runs import Asked, ask, make_missing
from reproduce.trained import train

SETTINGS = {
    "steps": 23, "questions_per_step": 1, "group_size": 32, "contributors": "winners", "mask": "learning_point",
    "train_loser_attempt": "false", "verify_on": "both", "n_verify": 1, "n_fresh": 4, "baseline": "fresh",
    "eval_every": 8, "eval_questions": 24, "show_every": 0, "preflight": "false",
}  # fmt: skip
SEEDS = (0, 1, 2, 3, 4)


def make(asked: Asked, run: dict) -> dict:
    fewer = {"steps": 2, "eval_every": 0, "eval_questions": 8} if asked.quick else {}
    settings = SETTINGS | {"shared.seed": run["seed"]} | fewer
    return train(asked.runs / f"stability/{run['seed']}", "paper", settings)


def main() -> None:
    asked = ask(__doc__)
    runs = [{"arm": "winners", "seed": seed} for seed in (SEEDS[:1] if asked.quick else SEEDS)]
    lines = make_missing(asked, "stability", runs, make)


if __name__ == "__main__":
    main()
