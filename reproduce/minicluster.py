"""T3, the paper's mini-cluster: why does its reward stay flat? Each suspect alone.

    python -m reproduce.minicluster [--jobs 2] [--quick]    # results/minicluster.jsonl, minicluster.json, .md, .svg

configs/paper_minicluster.yaml (5 questions, 5 epochs, 32 rollouts) with the combined reward: a point answers its own
question and another of the cluster. Five seeds of it, three of each suspect.
"""

from introspection.report.comparisons import dots
from introspection.report.figures import BLUE
from introspection.stats import mean
from reproduce.records import group, markdown_table, shown_interval
from reproduce.runs import Asked, ask, make_missing, over_seeds, publish
from reproduce.trained import in_ten, slope, train

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


# ---- the page ------------------------------------------------------------------------------------------------------
EPOCH = 5  # steps


def gains_of(line: dict) -> list[dict]:
    """The steps with their combined advantage: the mean of both kinds."""
    return [s | {"gain": None if s["same"] is None else (s["same"] + s["other"]) / 2} for s in line["log"]]


def share(steps: list[dict], name: str) -> float | None:
    points = sum(step["points"] for step in steps)
    return sum(step[name] for step in steps) / points if points else None


def row_of(arm: str, lines: list[dict], base: dict[int, dict]) -> dict:
    """What the table says of a suspect; base: the lines without it, by seed."""
    slopes = {line["run"]["seed"]: slope(line["log"], "reward", "question") for line in lines}
    moved = {seed: value - slope(base[seed]["log"], "reward", "question") for seed, value in slopes.items()}
    rewards = [group((s["question"], s["reward"]) for s in line["log"] if s["question"]) for line in lines]
    last = [step for line in lines for step in line["log"][-EPOCH:]]
    return {
        "arm": arm,
        "reward": over_seeds([mean(s["reward"] for s in line["log"]) for line in lines]),
        "slope": in_ten(over_seeds(list(slopes.values()))),
        "against base": in_ten(over_seeds(list(moved.values()))) if arm != "base" else None,
        "gain slope": in_ten(over_seeds([slope(gains_of(line), "gain", "question") for line in lines])),
        "applied": mean(s["applied"] for line in lines for s in line["log"]),
        "distinct first": share([step for line in lines for step in line["log"][:EPOCH]], "distinct"),
        "distinct last": share(last, "distinct"),
        "known last": share(last, "known"),
        "by_question": {q: [seed.get(q) for seed in rewards] for q in sorted(rewards[0])},
    }


def records_of(lines: list[dict]) -> dict:
    """The table as records."""
    base = {line["run"]["seed"]: line for line in lines if line["run"]["arm"] == "base"}
    arms = group((line["run"]["arm"], line) for line in lines)
    return {"rows": [row_of(arm, arms[arm], base) for arm in SUSPECTS if arm in arms]}


def blocks(lines: list[dict], records: dict) -> list[str | list[str]]:
    """The page."""
    cells = []
    for row in records["rows"]:
        shown = [row["arm"], str(len(row["slope"]["by_seed"])), f"{row['reward']['mean']:.3f}"]
        shown += [shown_interval(row[name]) if row[name] else "" for name in ("slope", "against base", "gain slope")]
        shares = (row[name] for name in ("applied", "distinct first", "distinct last", "known last"))
        cells.append([*shown, *("-" if value is None else f"{value:.2f}" for value in shares)])
    head = ["arm", "seeds", "reward", "reward, change in ten steps", "the same minus base's"]
    head += ["advantage, change in ten steps", "applied", "distinct, first epoch", "last epoch", "written before"]
    steps = max(len(line["log"]) for line in lines)
    return [
        "# T3: the paper's mini-cluster",
        f"Five questions of one rule, {steps} steps, 32 rollouts a step, combined reward (the point's own question and "
        "another of its cluster). 'base' is the paper's procedure with V = 1, each other arm changes one thing. "
        "Changes are slopes within each question, 95 % t intervals over seeds (primary: AdamW minus base). 'Applied': "
        "what of an update reached the weights. 'Distinct', 'written before' (at an earlier step): shares of points by "
        "their essence (no case, punctuation or small words).",
        markdown_table(head, cells),
    ]


def draw(plt, records: dict):
    """The slope of the reward with each suspect alone."""
    rows = records["rows"]
    most = max(rows[1:] or rows, key=lambda row: abs((row["against base"] or row["slope"])["mean"]))
    moved, by = (f"{row['slope']['mean']:+.3f}" for row in (rows[0], most))
    title = f"Reward in ten steps: {moved}; with {most['arm']}, which moves it most, {by}"
    shown = []
    for row in rows:
        e = row["slope"]
        seeds = f" ({len(e['by_seed'])} seeds)"
        shown.append((row["arm"], seeds, [(e["mean"], e["low"], e["high"], BLUE, None)]))
    note = "slopes within each question, 95 % t intervals over seeds"
    return dots(plt, title, note, "change of the combined reward in ten steps", shown, 0.9 + 0.34 * len(rows))


def make(asked: Asked, run: dict) -> dict:
    fewer = {"steps": 2, "eval_questions": 4} if asked.quick else {}
    settings = BASE | SUSPECTS[run["arm"]] | {"shared.seed": run["seed"]} | fewer
    program = ("-m", "reproduce.without_masters") if "shared.dtype" in settings else ("grpo_introspect.py",)
    name = f"minicluster/{run['arm'].replace(' ', '_')}-{run['seed']}"
    return train(asked.runs / name, "paper_minicluster", settings, program)


def main() -> None:
    asked = ask(__doc__)
    seeds = {arm: SEEDS.get(arm, 3) for arm in SUSPECTS}
    if asked.quick:
        seeds = dict.fromkeys(SUSPECTS, 0) | {"base": 1, "bf16 without masters": 1}
    runs = [{"arm": arm, "seed": seed} for seed in range(5) for arm in SUSPECTS if seed < seeds[arm]]
    lines = make_missing(asked, "minicluster", runs, make)
    records = records_of(lines)
    publish(asked, "minicluster", lines, records, blocks(lines, records), draw)


if __name__ == "__main__":
    main()
