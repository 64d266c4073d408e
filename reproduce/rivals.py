"""What reproduce/rivals.sh needs beside stages and rivals: the point that each cluster is given, what a dream is given,
and the table (T12 on the bank; after a few exchanges of new clusters: exchanges.py).

  best LIBRARY OUT    the library's best point of each cluster, by lower bound over all questions that tried a wording
  every POINTS OUT    a library that has every train question of the bank with its cluster's point, or its explanation
  table RUNS OUT      rivals.json, rivals.md

The unit is the cluster (composites: their parents), averaged over seeds. No contrast of this table is the primary one.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

from introspection import library
from introspection.stats import cluster_means, estimate, holm
from introspection.tables.units import minus
from reproduce.answers import read_answers
from reproduce.records import (
    group,
    markdown_table,
    quantity,
    read_lines,
    shown_accuracy,
    shown_interval,
    write_lines,
    write_table,
)
from tasks.bank import load_questions

BANK = Path("data/bank.jsonl")
ARMS = {  # arm: (what it is, what is revealed of an exchange, whether a text stands in context)
    "start": ("start model", "nothing", False),
    "ssd": ("SSD", "nothing", False),
    "grpo": ("GRPO", "right or wrong", False),
    "grpo-long": ("GRPO, 600 steps instead of 120", "right or wrong", False),
    "dr-grpo": ("Dr. GRPO", "right or wrong", False),
    "composer": ("Dr. GRPO, Composer 2's k1 in the reward", "right or wrong", False),
    "retry": ("Reflect, Retry, Reward", "right or wrong", False),
    "sft-gold": ("SFT on gold answers", "answer", False),
    "sft-answer": ("SFT on corrections", "answer", False),
    "sdpo-answer": ("SDPO", "answer", False),
    "sft-explanation": ("SFT on corrections", "explanation", False),
    "sdpo": ("SDPO", "explanation", False),
    "sdpo-ss": ("SDPO+ss", "explanation", False),
    "sdpo-long": ("SDPO, 600 steps instead of 120", "explanation", False),
    "sdpo-slow": ("SDPO, 600 steps at a quarter of the rate", "explanation", False),
    "resd": ("Resd", "explanation", False),
    "resd-long": ("Resd, 600 steps instead of 120", "explanation", False),
    "recalled": ("ours: stage 2, turns sampled", "explanation", False),
    "by-threshold": ("ours: stage 2, recalled by threshold", "explanation", False),
    "dreamt": ("ours: stage 3, dreamt", "explanation", False),
    "written": ("ours: stage 1, its best point in context", "explanation", True),
    # What sampling costs the others too.
    "start-greedy": ("start model, likeliest answers", "nothing", False),
    "grpo-greedy": ("GRPO, likeliest answers", "right or wrong", False),
    "grpo-long-greedy": ("GRPO, 600 steps, likeliest answers", "right or wrong", False),
    "sdpo-greedy": ("SDPO, likeliest answers", "explanation", False),
    "by-threshold-greedy": ("ours: stage 2, recalled by threshold, likeliest answers", "explanation", False),
    "dreamt-greedy": ("ours: stage 3, dreamt, likeliest answers", "explanation", False),
}
ONCE = ("start", "start-greedy", "written")  # the same for all seeds
GREEDY = "-greedy"
AGAINST = ("sdpo", "grpo", "grpo-long")  # every other arm is compared with these


def best_points(records: list[dict]) -> list[dict]:
    """One record a cluster; leaks left out. A wording that came of several questions is judged by all its samples."""
    usable = [r for r in records if r["text"] and not r["leak"]]
    pooled = library.merge([r | {"question_id": r["cluster"], "from": r["question_id"]} for r in usable])
    clusters = dict.fromkeys(r["cluster"] for r in pooled)
    chosen = [library.best([r for r in pooled if r["cluster"] == name]) for name in clusters]
    return [{name: value for name, value in r.items() if name != "from"} | {"question_id": r["from"]} for r in chosen]


def every_exchange(path: Path, texts: dict[str, str]) -> list[dict]:
    """A library that says something of every exchange: its cluster's text, or else its own explanation as it stands."""
    empty = dict.fromkeys(library.KEYS) | {"leak": False, "meta_gaming": False, "count": 1, "verified_on": []}
    taught = [q for q in load_questions(path) if q.split == "train"]
    told = [(q, texts.get(q.cluster, q.explanation)) for q in taught]
    return [empty | {"id": q.id, "text": text, "question_id": q.id, "cluster": q.cluster} for q, text in told]


# ---- what was measured ---------------------------------------------------------------------------------------------
def group_by_cluster(each: dict[str, float], cluster_of: dict[str, str]) -> dict[str, list[float]]:
    return group((cluster_of[question], accuracy) for question, accuracy in each.items())


def seeds_by_cluster(seeds: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """{cluster: [the mean over its questions, of each seed]}."""
    return {cluster: [float(np.mean(seed[cluster])) for seed in seeds] for cluster in seeds[0]}


def estimate_clusters(seeds: list[dict[str, list[float]]], split: str = "test") -> dict:
    """What tables say of a mean over clusters, what it was measured on, and the values it was computed from."""
    return {
        **estimate(seeds, split),
        "clusters": len(seeds[0]),
        "questions": sum(map(len, seeds[0].values())),
        "seeds": [float(cluster_means([s]).mean()) for s in seeds],
        "by_cluster": seeds_by_cluster(seeds),
    }


def sampled_tokens(step: dict) -> float:
    """Tokens that a step of stage 1 sampled, by its log."""
    return step["tokens_per_second"] * sum(step[f"time/rollout{i}"] for i in (1, 2, 3))


def cost(run: Path) -> dict:
    """Tokens that were generated and trained, and seconds of its steps, where a run's log has them."""
    found = {}
    for log in sorted(run.glob("*/metrics.jsonl")):
        records = read_lines(log)
        found |= {name: records[-1][name] for name in ("generated_tokens", "trained_tokens") if name in records[-1]}
        if "time/step" in records[-1]:
            found["seconds"] = sum(r["time/step"] for r in records)
        if "tokens_per_second" in records[-1]:  # stage 1
            found["generated_tokens"] = round(sum(map(sampled_tokens, records)))
    return found


def read_seed(answers: Path, questions: list) -> dict:
    """What a seed of an arm measured: accuracies by split and cluster, and the cost of its run."""
    return {"splits": read_answers(answers, questions), "cost": cost(answers.with_suffix(""))}


def compare(found: dict[str, list[dict]], arm: str, split: str) -> dict:
    """An arm's accuracy on a split, and how it differs from the start model and from rivals with as many seeds.

    Arms that are asked for their likeliest answers are held against those that are, too.
    """
    base, way = arm.removesuffix(GREEDY), GREEDY if arm.endswith(GREEDY) else ""
    part = [seed["splits"][split] for seed in found[arm]]
    made, others = estimate_clusters(part, split), {"start": found[f"start{way}"][:1] * len(part)}
    if base not in AGAINST:
        others |= {rival: found.get(f"{rival}{way}", []) for rival in AGAINST}
    for name, seeds in others.items():
        if base != "start" and len(seeds) == len(part):
            difference = minus(part, [seed["splits"][split] for seed in seeds])
            made[f"against {name}"] = estimate_clusters(difference, split)
    return made


def collect(runs: Path) -> list[dict]:
    """A record an arm; ours against the rivals has Holm's p."""
    questions = load_questions(runs / "asked.jsonl")
    answers = [(arm, path) for arm in ARMS for path in sorted(runs.glob(f"{arm}-[0-9].json"))]
    found, rows = group((arm, read_seed(path, questions)) for arm, path in answers), []
    for arm, seeds in found.items():
        splits = {split: compare(found, arm, split) for split in seeds[0]["splits"]}
        rows.append({"arm": arm, "cost": [seed["cost"] for seed in seeds], "splits": splits})
    return with_holm(rows)


def with_holm(rows: list[dict]) -> list[dict]:
    """The rows, p of every comparison with a rival corrected over all of them (`p_holm`)."""
    against = [r["splits"]["test"].get(f"against {rival}") for r in rows for rival in AGAINST]
    against = [contrast for contrast in against if contrast]
    for contrast, p in zip(against, holm([contrast["p"] for contrast in against]), strict=True):
        contrast["p_holm"] = p
    return rows


# ---- the table -----------------------------------------------------------------------------------------------------
def shown(e: dict | None) -> str:
    return shown_accuracy(e, bounds=".2f") if e else ""


def mean_cost(costs: list[dict]) -> str:
    """'1,234 k; 56': tokens and seconds, means over seeds, where all of them know."""
    tokens, seconds = ([c.get(name) for c in costs] for name in ("generated_tokens", "seconds"))
    told = "-" if None in tokens else f"{np.mean(tokens) / 1000:,.0f} k"
    return told if None in seconds else f"{told}; {np.mean(seconds):.0f}"


def cells(row: dict, splits: list[str], most: int) -> list[str]:
    """An arm's line of the table; most: seeds of a table, which are told where an arm has fewer."""
    what, revealed, context = ARMS[row["arm"]]
    if len(row["cost"]) < most and row["arm"] not in ONCE:
        what = f"{what}, {quantity(len(row['cost']), 'seed')}"
    accuracies = [shown(row["splits"].get(split)) for split in splits]
    return [f"{revealed}, text in context" if context else revealed, what, *accuracies, mean_cost(row["cost"])]


def markdown(rows: list[dict]) -> str:
    """Accuracy on each split, what the last stage cost, and the contrasts of ours with AGAINST."""
    row_of = {r["arm"]: r for r in rows}
    splits = list(row_of["start"]["splits"])
    seeds = max(len(e["seeds"]) for r in rows for e in r["splits"].values())
    told = [cells(row_of[arm], splits, seeds) for arm in ARMS if arm in row_of]
    lines = [
        f"The bank: all 16 exchanges of each of its 20 train clusters ({quantity(seeds, 'seed')})",
        "",
        *markdown_table(["revealed", "method", *splits, "sampled by the last stage; seconds"], told),
    ]
    for way, arm, rival in itertools.product(("", GREEDY), ("dreamt", "by-threshold"), AGAINST):
        e = row_of.get(arm + way, {"splits": {}})["splits"].get("test", {}).get(f"against {rival}")
        if e:
            what = f"{ARMS[rival][0]}, likeliest answers of both" if way else ARMS[rival][0]
            lines.append(f"\nOurs {arm} minus {what}, {shown_interval(e)}, p = {e['p_holm']:.4f} (Holm)")
    lines.append(
        f"\nMeans over clusters and {seeds} seeds unless said otherwise, 95 % intervals over both and questions. "
        "The start model is asked once, and so is a context that all seeds share."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    action, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if action == "table":
        rows = collect(source)
        write_table(out, "rivals", rows, markdown(rows))
    elif action == "every":
        write_lines(out, every_exchange(BANK, {r["cluster"]: r["text"] for r in read_lines(source)}))
    else:
        write_lines(out, best_points(library.load_library(source)))
