"""Scored answers against sampled ones: agreement, the rank of points, and the time of rollout 3, in one run.

    python -m benchmarks.scored [MODEL --questions FILE]

The same points on the same views, read three ways: sampled, scored after a rationale, scored without one. Reported are
accuracy with the points and without, Spearman's rank correlation of the points' advantages with the sampled ones, and
seconds of rollout 3, each as a ratio to sampling. Writes results/scored.json (a row a model).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from common import ROOT, ReaderNumber, Shared, draw_some, rng
from introspection import models, prompts
from introspection.reader import Reader
from introspection.rollouts import rollout_1, rollout_2, rollout_3
from introspection.stats import mean
from reproduce.records import write_records
from tasks.bank import load_questions

WAYS = {"sampled": ("sampled", True), "scored": ("scored", True), "scored, no rationale": ("scored", False)}


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's: Pearson's of the ranks, ties sharing theirs."""
    ranks = []
    for values in (np.array(a), np.array(b)):
        ranks.append([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])
    return float(np.corrcoef(ranks)[0, 1])


def measure(model: str, file: str, wording: str, questions: int, group: int, limit: int) -> dict:
    """A row: what each way of reading says of the same points."""
    prompts.use(wording, ROOT)
    cfg = Shared(model=model)
    chat, policy = models.load_chat(model), models.load_policy(model, cfg)
    bank = [q for q in load_questions(file) if q.split == "train" and q.movable]
    chosen = draw_some(bank, questions, rng(0))
    key = (0, 1, ReaderNumber.STEP)
    writer = Reader(policy, chat, 0.7 if wording == "plain" else 1.0, limit, key)
    if wording == "plain":
        writer.answers, writer.rationale = "scored", False
    row = {"model": Path(model).name, "questions": questions, "points": questions * group, "ways": {}}
    advantages = {}
    for name, (answers, rationale) in WAYS.items():
        groups = rollout_1(writer, chosen, bank, group_size=group, verify_on="same", n_verify=4)
        rollout_2(writer, groups, contributors="both", reveal="explanation", max_point_tokens=64)
        reader = Reader(policy, chat, writer.temperature, limit, key, answers=answers, rationale=rationale)
        started = time.perf_counter()
        rollout_3(reader, groups, n_fresh=2, reward="sampled")
        seconds = time.perf_counter() - started
        gains = [(g.gain(p, "same"), p) for g in groups for p in g.points if p.text]
        advantages[name] = [gain for gain, _ in gains]
        row["ways"][name] = {
            "seconds": seconds,
            "with": mean(p.accuracies_V[g.on("same")].mean().item() for g in groups for p in g.points if p.text),
            "without": mean(g.fresh_accuracies_V[g.on("same")].mean().item() for g in groups),
        }
    for name, way in row["ways"].items():
        way["time_ratio"] = way["seconds"] / row["ways"]["sampled"]["seconds"]
        way["rank_correlation"] = rank_correlation(advantages[name], advantages["sampled"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="scored against sampled answers")
    parser.add_argument("model", nargs="?", default="organism/weights")
    parser.add_argument("--questions", default="data/bank.jsonl")
    parser.add_argument("--n", type=int, default=24, help="questions")
    parser.add_argument("--group", type=int, default=8, help="points of each")
    args = parser.parse_args()
    wording, limit = ("organism", 48) if args.model.startswith("organism/") else ("plain", 96)
    row = measure(args.model, args.questions, wording, args.n, args.group, limit)
    path = ROOT / "results/scored.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    write_records(path, [r for r in rows if r["model"] != row["model"]] + [row])
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
