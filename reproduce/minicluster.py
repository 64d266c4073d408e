"""T3, the paper's mini-cluster: why does its reward stay flat? Each suspect alone.

    python -m reproduce.minicluster [--jobs 2] [--quick]    # results/minicluster.jsonl, minicluster.json, .md, .svg

configs/paper_minicluster.yaml (5 questions, 5 epochs, 32 rollouts) with the combined reward: a point answers its own
question and another of the cluster. Five seeds of it, three of each suspect.
"""

from reproduce.runs import Asked, ask, make_missing
from reproduce.trained import train

BASE = {"verify_on": "both", "eval_every": 0, "eval_questions": 12, "show_every": 0, "preflight": "false"}
SUSPECTS = {
    "base": {},
    "bf16 without masters": {"shared.dtype": "bfloat16"},
    "V = 4": {"n_verify": 4},
    "V = 16": {"n_verify": 16},
    "winners": {"contributors": "winners"},
    "losers": {"contributors": "losers"},
    "point tokens": {"mask": "learning_point", "train_loser_attempt": "false"},
    "AdamW": {"optimizer": "adamw", "lr": 2e-4},
}
SEEDS = {"base": 5}  # of the others 3


def make(asked: Asked, run: dict) -> dict:
    fewer = {"steps": 2, "eval_questions": 4} if asked.quick else {}
    settings = BASE | SUSPECTS[run["arm"]] | {"shared.seed": run["seed"]} | fewer
    program = ("-m", "reproduce.without_masters") if "shared.dtype" in settings else ("grpo_introspect.py",)
    name = f"minicluster/{run['arm'].replace(' ', '_')}-{run['seed']}"
    return train(asked.runs / name, "paper_minicluster", settings, program)


def main() -> None:
    asked = ask(__doc__)
    seeds = {arm: 1 if asked.quick else SEEDS.get(arm, 3) for arm in SUSPECTS}
    runs = [{"arm": arm, "seed": seed} for seed in range(5) for arm in SUSPECTS if seed < seeds[arm]]
    lines = make_missing(asked, "minicluster", runs, make)


if __name__ == "__main__":
    main()
