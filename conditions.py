"""The conditions of eval.py's tables points and transfer: who writes points, who reads them, and the controls beside them.

Every condition returns one record a question (or pair of questions): accuracy with the points, and without, on the same views.
"""

from dataclasses import replace

import numpy as np
import torch

import library
from common import rng
from introspection import VIEWS, Attempt, Group, Point, rollout_1, rollout_2, rollout_3
from measure import Reader, same_views, transfer_views
from rollout import Completion
from tasks.mcq import Question

ELSEWHERE = 43  # of the keys of what is drawn from another cluster


# ---- writers -------------------------------------------------------------------------------------------------------
def written(cfg, writer: Reader, questions: list[Question], reveal: str, n_points: int, n_verify: int) -> list[Group]:
    """Rollouts 1 and 2: the points of a writer, and the views of each question on which any reader will try them."""
    groups = rollout_1(writer, questions, questions, group_size=n_points, verify_on="transfer", n_verify=n_verify)
    rollout_2(writer, groups, contributors="both", reveal=reveal, max_point_tokens=cfg.max_point_tokens, introspect=cfg.introspect)
    return groups


def exchanged(cfg, groups: list[Group]) -> list[Group]:
    """Every question gets the points of a question of another cluster."""
    texts = [[p.text for p in g.points] for g in groups]
    for i, group in enumerate(groups):
        others = [j for j in range(len(groups)) if groups[j].question.cluster != group.question.cluster]
        for point, text in zip(group.points, texts[others[rng(cfg.seed, ELSEWHERE, i).integers(len(others))]], strict=True):
            point.text = text
    return groups


def from_library(cfg, reader: Reader, questions: list[Question], records: list[dict]) -> list[Group]:
    """Each question's best point from a file; a composite gets that of each of its clusters, in a row."""
    groups = []
    for group in rollout_1(reader, questions, questions, group_size=1, verify_on="transfer", n_verify=cfg.n_verify):
        text = library.point_of(group.question.id, records)
        if text is not None:
            unmeasured, silent = torch.full((len(group.views_V),), float("nan")), Completion([], [], True)
            group.points = [Point([], Attempt(silent, False), [], unmeasured, unmeasured.clone(), silent, text)]
            groups.append(group)
    return groups


def tried(cfg, reader: Reader, groups: list[Group]) -> list[dict]:
    """Rollout 3, one record a question: accuracy with its points and without. One that does not parse, or leaks, counts as none."""
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward="sampled")
    records = []
    for g in groups:
        fresh = g.fresh_accuracies_V.mean().item()
        points = [p.accuracies_V.mean().item() if p.valid else fresh for p in g.points]
        records.append({
            "question_id": g.question.id, "cluster": g.question.cluster, "with": float(np.mean(points)), "without": fresh,
            "valid": sum(p.valid for p in g.points) / len(g.points),
        })  # fmt: skip
    return records


def best_of(cfg, reader: Reader, groups: list[Group], questions: list[Question]) -> list[dict]:
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
        half = replace(reader, key=(*reader.key[:-1], reader.key[-1] + 1 + k), generated=0)  # new noise for each half
        records = tried(cfg, half, groups)
        reader.generated += half.generated
        return records

    on_half(0)
    for g in groups:
        valid = [p for p in g.points if p.valid] or g.points
        g.points = [max(valid, key=lambda p: p.accuracies_V.nan_to_num().mean().item())]
    return on_half(1)


def writing(cfg, writer: str, trained: list[str]) -> list[tuple[str, str]]:
    """(condition, reader) for one writer: 'start', a trained one, or the foreign model (table T10: who understands whom).

    A reader is 'start', 'own' (the writer itself), or a folder.
    """
    names = [("points", "start")] + [("points", "own")] * (writer != "start" and cfg.own_reader)
    if cfg.foreign:
        others = [cfg.foreign] * (writer != cfg.foreign) + trained * (writer not in trained)
        names += [("points", name) for name in others]
    if writer != cfg.foreign:
        names += [(f"blind: {kind}", "start") for kind in ("nothing", "swapped", "other") if cfg.blind]
    if writer == "start":
        names += [(f"best of {cfg.best_of}", "start")] * bool(cfg.best_of)
    if cfg.library and (writer == "start" or (writer in trained and cfg.own_reader)):  # does a trained reader still read well?
        names.append(("library", "start" if writer == "start" else "own"))
    return names


def written_and_read(cfg, name: str, writer: Reader, reader: Reader, questions: list[Question], records: list[dict]) -> list[dict]:
    """The records of one condition of `writing`; records: of the library."""
    if name == "library":
        return tried(cfg, reader, from_library(cfg, reader, questions, records))
    if name.startswith("best of"):
        return best_of(cfg, reader, written(cfg, writer, questions, cfg.reveal, cfg.best_of, cfg.n_verify), questions)
    reveal = {"blind: nothing": "nothing", "blind: swapped": "swapped"}.get(name, cfg.reveal)
    groups = written(cfg, writer, questions, reveal, cfg.group_size, cfg.n_verify)
    return tried(cfg, reader, exchanged(cfg, groups) if name == "blind: other" else groups)


# ---- from every question to every other ------------------------------------------------------------------------------
def matrix(cfg, writer: Reader, reader: Reader, questions: list[Question]) -> list[dict]:
    """Table T5: the points of each question tried on every question, its own included; one record a pair."""
    groups = written(cfg, writer, questions, cfg.reveal, cfg.group_size, 1)
    for g in groups:
        g.views_V = [v for j, q in enumerate(questions) for v in same_views(q, cfg.n_verify, rng(*reader.key, VIEWS, g.number, j))]
        g.kinds_V = ["transfer"] * len(g.views_V)
        for p in g.points:
            p.accuracies_V, p.rewards_V = (torch.full((len(g.views_V),), float("nan")) for _ in range(2))
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward="sampled")
    records = []
    for g in groups:
        fresh = g.fresh_accuracies_V
        accuracies = torch.stack([p.accuracies_V if p.valid else fresh for p in g.points]).mean(0)
        for j, q in enumerate(questions):
            part = slice(j * cfg.n_verify, (j + 1) * cfg.n_verify)
            pair = {"question_id": g.question.id, "cluster": g.question.cluster, "on": q.id, "on_cluster": q.cluster}
            records.append(pair | {"with": accuracies[part].mean().item(), "without": fresh[part].mean().item()})
    return records


def by_pair(units: list[dict]) -> list[dict]:
    """A unit for the points on their own questions, and one for each pair of clusters, where the unit of inference is the point's question."""
    made = []
    for u in units:
        pairs: dict[str, list[dict]] = {}
        for r in u["questions"]:
            if r["on"] == r["question_id"]:
                pairs.setdefault("own question", []).append(r)
            else:
                pairs.setdefault(f"{r['cluster']} on {r['on_cluster']}", []).append(r | {"cluster": r["question_id"]})
        made += [u | {"condition": name, "questions": pairs[name]} for name in sorted(pairs)]
    return made


def label_test(records: list[dict], draws: int = 2000) -> tuple[float, float]:
    """(advantage on other questions of the point's cluster minus that on other clusters, one-sided p from permuted labels)."""
    names = {r["question_id"]: r["cluster"] for r in records} | {r["on"]: r["on_cluster"] for r in records}
    order, labels = sorted(names), np.unique([names[q] for q in sorted(names)], return_inverse=True)[1]
    place = {q: i for i, q in enumerate(order)}
    pairs = np.array([(place[r["question_id"]], place[r["on"]]) for r in records if r["question_id"] != r["on"]])
    gains = np.array([r["with"] - r["without"] for r in records if r["question_id"] != r["on"]])

    def contrast(labels: np.ndarray) -> float:
        near = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        return gains[near].mean() - gains[~near].mean() if near.any() and not near.all() else 0.0

    draw, seen = np.random.default_rng(0), contrast(labels)
    permuted = [contrast(draw.permutation(labels)) for _ in range(draws)]
    return float(seen), (1 + sum(value >= seen for value in permuted)) / (draws + 1)
