"""Evaluation: what the points of trained writers are worth, and to whom, with the controls that tell memory from skill.

Every writer (the start model first) attempts the questions of each split, writes points, and the points are tried on other
questions of the cluster, by the start model and, for trained writers, by themselves. Beside that:
  blind: nothing   points written without being told whether, or what, was right
  blind: swapped   points written after a wrong answer was given out as the right one
  blind: other     points from another cluster's exchange
  best of N        the start model's best point of N, chosen on questions on which it is not measured
  library          points from a file, such as data/points_ideal.jsonl
No point can be worth more than chance without its exchange, unless the writer knows the cluster by heart: split test measures
memory too, split test_clusters skill alone (README 'Evaluation').

Inputs:  a question bank, the start model, folders of trained writers (one per training seed)
Outputs: runs/<config>/eval/ with results.jsonl (each question), table.json, table.md
Run:     python eval.py --config configs/bank.yaml --set writers=runs/bank/grpo_introspect/final
"""

import json
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

import common
import library
import models
import ranks
from chat import Chat
from common import Run, Shared, UserError, rng
from introspection import VIEWS, Attempt, Group, Point, rollout_1, rollout_2, rollout_3
from measure import Reader, bootstrap_clusters, cluster_means, holm, sign_flip, transfer_views
from rollout import Completion
from tasks.mcq import SPLITS, Question, in_company, load_questions


@dataclass
class Config(Shared):
    writers: str = ""  # folders of trained writers, separated by commas: one for each training seed of one method
    splits: str = "test,test_clusters"  # parts of the bank, separated by commas
    reveal: Literal["answer", "explanation", "peer"] = "answer"  # what losers see
    introspect: Literal["prompted", "optional"] = "prompted"  # how points are asked for
    own_reader: bool = True  # whether trained writers read their points too; otherwise only the start model does
    blind: bool = True  # whether the three blind writers are measured
    best_of: int = 8  # N of the null 'best of N', 0: none
    library: str = ""  # JSONL of points by question_id, read by the start model
    group_size: int = 4  # attempts, and points, a question
    n_verify: int = 4  # other questions of the cluster on which a point is tried
    n_fresh: int = 4  # answers without a point on each of them
    eval_questions: int = 0  # questions a split, at most, 0: all
    temperature: float = 1.0  # of all sampling
    max_new_tokens: int = 48  # longest attempt, tokens
    max_point_tokens: int = 64  # longest learning point turn, tokens

    def check(self) -> None:
        for split in self.splits.split(","):
            if split not in SPLITS:
                raise UserError(f"eval.splits: unknown split '{split}'; expected some of {', '.join(SPLITS)}")
        for name in ("group_size", "n_verify", "n_fresh", "max_new_tokens", "max_point_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"eval.{name}: expected at least 1, got {getattr(self, name)}")


# ---- what is measured ----------------------------------------------------------------------------------------------
def written(cfg: Config, writer: Reader, questions: list[Question], reveal: str, n_points: int, n_verify: int) -> list[Group]:
    """Rollouts 1 and 2: the points of a writer, and the views of each question on which any reader will try them."""
    groups = rollout_1(writer, questions, questions, group_size=n_points, verify_on="transfer", n_verify=n_verify)
    rollout_2(writer, groups, contributors="both", reveal=reveal, max_point_tokens=cfg.max_point_tokens, introspect=cfg.introspect)
    return groups


def exchanged(groups: list[Group]) -> list[Group]:
    """Every question gets the points of a question of another cluster."""
    texts = [[p.text for p in g.points] for g in groups]
    for i, group in enumerate(groups):
        others = [j for j in range(len(groups)) if groups[j].question.cluster != group.question.cluster]
        for point, text in zip(group.points, texts[others[(7 * i) % len(others)]], strict=True):
            point.text = text
    return groups


def from_library(cfg: Config, reader: Reader, questions: list[Question], records: list[dict]) -> list[Group]:
    """Each question's best point from a file; a composite gets that of each of its clusters, in a row."""
    groups = []
    for group in rollout_1(reader, questions, questions, group_size=1, verify_on="transfer", n_verify=cfg.n_verify):
        text = library.point_of(group.question.id, records)
        if text is not None:
            unmeasured, silent = torch.full((len(group.views_V),), float("nan")), Completion([], [], True)
            group.points = [Point([], Attempt(silent, False), [], unmeasured, unmeasured.clone(), silent, text)]
            groups.append(group)
    return groups


def tried(cfg: Config, reader: Reader, groups: list[Group]) -> list[dict]:
    """Rollout 3, one record a question: accuracy with its points (one that does not parse counts as none) and without."""
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward="sampled")
    records = []
    for g in groups:
        fresh = g.fresh_accuracies_V.mean().item()
        points = [fresh if p.text is None else p.accuracies_V.mean().item() for p in g.points]
        records.append({"question_id": g.question.id, "cluster": g.question.cluster, "with": float(np.mean(points)), "without": fresh})
    return records


def best_of(cfg: Config, reader: Reader, groups: list[Group], questions: list[Question]) -> list[dict]:
    """The null of every writer: keep the best of N points on half of the cluster's other questions, measure it on the rest.

    A question with a single other one in its cluster is left out.
    """
    halves = {}
    for g in groups:
        others = [q for q in questions if q.cluster == g.question.cluster and q.id != g.question.id]
        order = rng(*reader.key, VIEWS, g.number, 1).permutation(len(others))
        halves[g.number] = [[others[i] for i in order[k::2]] for k in range(2)]
    groups = [g for g in groups if all(halves[g.number])]

    def on_half(k: int) -> list[dict]:
        for g in groups:
            g.views_V = transfer_views(g.question, halves[g.number][k], cfg.n_verify, rng(*reader.key, VIEWS, g.number, 2 + k))
            for p in g.points:
                p.accuracies_V, p.rewards_V, p.verifications = *(torch.full((cfg.n_verify,), float("nan")) for _ in range(2)), []
        return tried(cfg, replace(reader, key=(*reader.key[:-1], reader.key[-1] + 1 + k)), groups)  # new noise for each half

    on_half(0)
    for g in groups:
        parsed = [p for p in g.points if p.text is not None] or g.points
        g.points = [max(parsed, key=lambda p: p.accuracies_V.nan_to_num().mean().item())]
    return on_half(1)


def conditions(cfg: Config, trained: bool) -> list[tuple[str, str]]:
    """(condition, reader) for one writer."""
    names = [("points", "start")] + [("points", "own")] * (trained and cfg.own_reader)
    names += [(f"blind: {kind}", "start") for kind in ("nothing", "swapped", "other") if cfg.blind]
    if not trained:
        names += [(f"best of {cfg.best_of}", "start")] * bool(cfg.best_of) + [("library", "start")] * bool(cfg.library)
    return names


def measured(cfg: Config, name: str, writer: Reader, reader: Reader, questions: list[Question]) -> list[dict]:
    """The records of one condition."""
    if name == "library":
        return tried(cfg, reader, from_library(cfg, reader, questions, library.load_library(common.ROOT / cfg.library)))
    if name.startswith("best of"):
        return best_of(cfg, reader, written(cfg, writer, questions, cfg.reveal, cfg.best_of, cfg.n_verify), questions)
    reveal = {"blind: nothing": "nothing", "blind: swapped": "swapped"}.get(name, cfg.reveal)
    groups = written(cfg, writer, questions, reveal, cfg.group_size, cfg.n_verify)
    return tried(cfg, reader, exchanged(groups) if name == "blind: other" else groups)


# ---- tables --------------------------------------------------------------------------------------------------------
def by_cluster(unit: dict, value) -> dict[str, list[float]]:
    clusters: dict[str, list[float]] = {}
    for record in unit["questions"]:
        clusters.setdefault(record["cluster"], []).append(value(record))
    return clusters


def estimate(seeds: list[dict[str, list[float]]]) -> dict:
    """Mean over clusters, 95 % interval, and the one-sided 95 % lower bound that non-inferiority asks for."""
    means = bootstrap_clusters(seeds)
    low, high, bound = np.quantile(means, [0.025, 0.975, 0.05])
    return {"mean": float(cluster_means(seeds).mean()), "low": float(low), "high": float(high), "lower_bound": float(bound)}


def minus(seeds: list[dict], start: dict) -> list[dict]:
    """Paired differences, question by question: both dictionaries list the same questions in the same order."""
    return [{c: [a - b for a, b in zip(seed[c], start[c], strict=True)] for c in seed} for seed in seeds]


def table(units: list[dict]) -> list[dict]:
    """Rows of the table: each condition pooled over training seeds, trained writers also against the start writer."""
    rows, start = [], {(u["split"], u["condition"]): u for u in units if u["writer"] == "start"}
    pooled: dict[tuple, list[dict]] = {}
    for u in (u for u in units if u["questions"]):  # no question of a split may have a best of N
        pooled.setdefault((u["split"], "start" if u["writer"] == "start" else "trained", u["condition"], u["reader"]), []).append(u)
    for (split, writer, condition, reader), seeds in pooled.items():
        gains = [by_cluster(u, lambda r: r["with"] - r["without"]) for u in seeds]
        row = {
            "split": split, "writer": writer, "condition": condition, "reader": reader, "seeds": len(seeds), "clusters": len(gains[0]),
            "questions": len(seeds[0]["questions"]), "with": cluster_means([by_cluster(u, lambda r: r["with"]) for u in seeds]).mean(),
            "without": cluster_means([by_cluster(u, lambda r: r["without"]) for u in seeds]).mean(), "advantage": estimate(gains),
            "each_seed": [float(cluster_means([g]).mean()) for g in gains], "generated_tokens": sum(u["generated_tokens"] for u in seeds),
        }  # fmt: skip
        if writer == "trained" and (split, condition) in start:
            first = start[split, condition]
            change = minus(gains, by_cluster(first, lambda r: r["with"] - r["without"]))
            row["change"] = estimate(change) | {"p": sign_flip(cluster_means(change))}
            if reader == "own":  # without a point, the trained model against the start model
                kept = minus([by_cluster(u, lambda r: r["without"]) for u in seeds], by_cluster(first, lambda r: r["without"]))
                row["no_point_change"] = estimate(kept)
        rows.append(row)
    compared = [r for r in rows if "change" in r]
    # One primary contrast, named beforehand: the trained writer's points for the start reader on clusters never rewarded.
    others = [r for r in compared if (r["split"], r["condition"], r["reader"]) != ("test_clusters", "points", "start")]
    for row, p in zip(others, holm([r["change"]["p"] for r in others]), strict=True):
        row["change"]["p_holm"] = p
    return rows


def markdown(rows: list[dict]) -> str:
    """The table for people; p: sign flips over clusters of the change against the start writer, by Holm beside the primary one."""
    def shown(e: dict) -> str:
        return f"{e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}]"

    lines = ["| split | writer | condition | reader | with | without | advantage | change against start (advantage of each seed) | p | n |", "|" + "---|" * 10]
    for r in rows:
        change = ("", "")
        if "change" in r:
            p = f"{r['change']['p']:.4f} (primary)" if "p_holm" not in r["change"] else f"{r['change']['p_holm']:.4f}"
            change = (shown(r["change"]) + " (" + ", ".join(f"{s:+.3f}" for s in r["each_seed"]) + ")", p)
        size = f"{r['seeds']} x {r['clusters']} clusters, {r['questions']} questions"
        cells = [r["split"], r["writer"], r["condition"], r["reader"], f"{r['with']:.3f}", f"{r['without']:.3f}", shown(r["advantage"]), *change, size]
        lines.append("| " + " | ".join(cells) + " |")
        if "no_point_change" in r:
            e = r["no_point_change"]
            lines.append(f"| {r['split']} | trained | no point | own |  | {r['without']:.3f} |  | {shown(e)}, one-sided 95 % bound {e['lower_bound']:+.3f} |  | {size} |")
    return "\n".join(lines)


# ---- main ----------------------------------------------------------------------------------------------------------
def load_data(cfg: Config) -> dict[str, list[Question]]:
    """Questions of each split that have another one in their cluster. Raises UserError for a split without any."""
    questions, data = load_questions(common.ROOT / cfg.questions, cfg.cluster), {}
    for split in cfg.splits.split(","):
        part = [q for q in questions if q.split == split]
        if cfg.eval_questions:
            part = [part[i] for i in sorted(rng(cfg.seed).permutation(len(part))[: cfg.eval_questions])]
        part = in_company(part)
        if not part:
            raise UserError(f"eval.splits: {cfg.questions} has no two '{split}' questions of one cluster")
        if cfg.blind and len({q.cluster for q in part}) < 2:
            raise UserError(f"eval.blind: split '{split}' has one cluster, so no point comes from another; use blind: false")
        data[split] = part
    return data


def main(cfg: Config, run: Run, dry_run: bool) -> None:
    data = load_data(cfg)
    trained = [name.strip() for name in cfg.writers.split(",") if name.strip()]
    for name in trained:
        if not (common.ROOT / name / "config.json").is_file():
            raise UserError(f"eval.writers: '{name}' is no model folder")
    known = {r["question_id"] for r in library.load_library(common.ROOT / cfg.library)} if cfg.library else set()
    for split, part in data.items():
        if cfg.library and not known & {q.id for q in part}:
            raise UserError(f"eval.library: {cfg.library} has no point for any question of split '{split}'")
    if ranks.world() > 1:
        raise UserError("eval runs in one process; start it with python, not torchrun")
    if dry_run:
        sizes = ", ".join(f"{len(part)} {split}" for split, part in data.items())
        print(f"questions: {sizes}; writers: start{''.join(', ' + name for name in trained)}")
        return
    run.check()
    run.open()
    run.mend("results.jsonl")
    units = run.read("results.jsonl")
    done = {(u["writer"], u["split"], u["condition"], u["reader"]) for u in units}
    todo = [(w, split, c, r) for w in ("start", *trained) for split in data for c, r in conditions(cfg, w != "start")]
    open_ = [unit for unit in todo if unit not in done]

    def load(name: str) -> Reader:
        tokenizer = models.load_tokenizer(name)
        chat = Chat(tokenizer, models.eos_ids(name, tokenizer), cfg.system)
        return Reader(models.load_policy(name, cfg), chat, cfg.temperature, cfg.max_new_tokens, (cfg.seed, 0, 1))

    start = load(cfg.model) if open_ else None
    writer, loaded = start, "start"
    for name, split, condition, who in tqdm(open_, desc="eval", dynamic_ncols=True, disable=None):
        if loaded != name:
            writer, loaded = (start if name == "start" else load(name)), name
        writer.generated = start.generated = 0
        records = measured(cfg, condition, writer, writer if who == "own" else start, data[split])
        tokens = start.generated + (writer.generated if writer is not start else 0)
        units.append({"writer": name, "split": split, "condition": condition, "reader": who, "generated_tokens": tokens, "questions": records})
        run.log("results.jsonl", units[-1])
        if run.stopped_by:
            run.leave()
    rows = table(units)
    common.write(run.path / "table.json", json.dumps(rows, indent=1))
    text = markdown(rows)
    common.write(run.path / "table.md", text + "\n")
    print(f"{text}\n\nEverything is in {run.path}: results.jsonl (each question), table.json, table.md")


if __name__ == "__main__":
    common.launch(main, Config, "eval")
