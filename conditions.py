"""What eval.py compares: where points come from, who reads them, and the controls beside them.

Writers (stage 1): points on a question, tried on other questions of its cluster.
The matrix: points of each question tried on every question.
Recallers (stage 2): a text for each question, tried on that question with its options in new orders.
Every condition returns one record a question: accuracy with the point, and without it, on the same views.
"""

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import torch

import library
import prompts
from common import rng
from introspection import VIEWS, Attempt, Group, Point, rollout_1, rollout_2, rollout_3
from measure import Reader, same_views, transfer_views
from rollout import Completion, next_logprobs
from tasks.mcq import Question, grade

RECALLING, ANSWERING, UNAIDED = range(40, 43)  # phases, part of every noise key


# ---- writers -------------------------------------------------------------------------------------------------------
def written(cfg, writer: Reader, questions: list[Question], reveal: str, n_points: int, n_verify: int) -> list[Group]:
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
    """Rollout 3, one record a question: accuracy with its points (one that does not parse counts as none) and without."""
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward="sampled")
    records = []
    for g in groups:
        fresh = g.fresh_accuracies_V.mean().item()
        points = [fresh if p.text is None else p.accuracies_V.mean().item() for p in g.points]
        records.append({"question_id": g.question.id, "cluster": g.question.cluster, "with": float(np.mean(points)), "without": fresh})
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
        return tried(cfg, replace(reader, key=(*reader.key[:-1], reader.key[-1] + 1 + k)), groups)  # new noise for each half

    on_half(0)
    for g in groups:
        parsed = [p for p in g.points if p.text is not None] or g.points
        g.points = [max(parsed, key=lambda p: p.accuracies_V.nan_to_num().mean().item())]
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
    return tried(cfg, reader, exchanged(groups) if name == "blind: other" else groups)


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
    for g in (g for g in groups if any(p.text for p in g.points)):
        accuracies = torch.stack([p.accuracies_V for p in g.points if p.text]).mean(0)
        for j, q in enumerate(questions):
            part = slice(j * cfg.n_verify, (j + 1) * cfg.n_verify)
            pair = {"question_id": g.question.id, "cluster": g.question.cluster, "on": q.id, "on_cluster": q.cluster}
            records.append(pair | {"with": accuracies[part].mean().item(), "without": g.fresh_accuracies_V[part].mean().item()})
    return records


def by_pair(units: list[dict]) -> list[dict]:
    """A unit for each pair of clusters of a matrix, and one for the points on their own questions."""
    made = []
    for u in units:
        pairs: dict[str, list[dict]] = {}
        for r in u["questions"]:
            pairs.setdefault("own question" if r["on"] == r["question_id"] else f"{r['cluster']} on {r['on_cluster']}", []).append(r)
        made += [u | {"condition": name, "questions": pairs[name]} for name in sorted(pairs)]
    return made


def label_test(records: list[dict], draws: int = 2000) -> tuple[float, float]:
    """(advantage on other questions of the point's cluster minus that on other clusters, p from permuted cluster labels)."""
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


# ---- recallers -----------------------------------------------------------------------------------------------------
def recalling(recaller: str) -> list[tuple[str, str]]:
    """(condition, reader) of table T8 for one recaller, or for the start model with what it can be given instead."""
    if recaller != "start":
        return [("recalled", "own"), ("recalled", "start")] + [(f"recall: {kind}", "own") for kind in ("emptied", "random", "wrong")]
    return [(name, "start") for name in ("best point", "parent 1", "parent 2", "random point", "wrong point", "ideal point", "BM25", "whole library")]


def parents(question: Question, records: list[dict]) -> list[str]:
    """The best point of each of a question's clusters, its own question's first; leaks are left out."""
    texts = []
    for cluster in question.cluster.split("+"):
        fitting = [r for r in records if r["cluster"] == cluster and r["text"] and not r["leak"]]
        own = [r for r in fitting if r["question_id"] == question.id]
        if fitting:
            texts.append(library.best(own or fitting)["text"])
    return texts


def bm25(query: str, documents: list[str], k1: float = 1.5, b: float = 0.75) -> int:
    """Place of the document that fits a query best (Okapi BM25)."""
    counts = [Counter(re.findall(r"\w+", d.lower())) for d in documents]
    lengths = np.array([c.total() for c in counts])
    scores = np.zeros(len(documents))
    for word in set(re.findall(r"\w+", query.lower())):
        times = np.array([c[word] for c in counts])
        found = (times > 0).sum()
        idf = math.log(1 + (len(documents) - found + 0.5) / (found + 0.5))
        scores += idf * times * (k1 + 1) / (times + k1 * (1 - b + b * lengths / lengths.mean()))
    return int(scores.argmax())


def given(name: str, questions: list[Question], records: dict[str, list[dict]], sources: dict[str, str]) -> list[str | None]:
    """The text that a condition gives to each question, None where it has none. sources: question texts by id."""
    own, texts = {q.id: parents(q, records["library"]) for q in questions}, []
    clusters = sorted({r["cluster"] for r in records["library"]})
    best = {c: library.best([r for r in records["library"] if r["cluster"] == c])["text"] for c in clusters}
    listed = [r for r in records["library"] if not r["leak"]]
    documents = [sources.get(r["question_id"], "") + " " + r["text"] for r in listed]
    for i, q in enumerate(questions):
        kind = name.removeprefix("recall: ").removesuffix(" point")
        whole = own[q.id] if len(own[q.id]) == len(q.cluster.split("+")) else []
        if kind == "best":
            texts.append(". ".join(whole) or None)
        elif kind in ("parent 1", "parent 2"):
            place = int(kind[-1]) - 1
            texts.append(whole[place] if len(whole) == 2 else None)
        elif kind == "random":
            others = [c for c in clusters if c not in q.cluster.split("+")]
            texts.append(best[others[(7 * i) % len(others)]] if others else None)
        elif kind in ("wrong", "ideal"):
            texts.append(". ".join(r["text"] for r in records[kind] if r["question_id"] == q.id) or None)
        elif kind == "BM25":
            texts.append(listed[bm25(q.question, documents)]["text"])
        elif kind == "whole library":
            texts.append(". ".join(best.values()))
        else:
            texts.append("")  # emptied
    return texts


def recalled(cfg, writer: Reader, own: bool, start: Reader, questions: list[Question], texts: list[str | None] | None) -> list[dict]:
    """The records of one condition of `recalling`. Every question is asked in n_verify orders of its options.

    texts: from `given`; None where the recaller itself says what it recalls. own: the recaller answers, not the start model.
    `without` is always the start model without a point. `fired`: the share of turns that begin with a recalled point; `score`: the
    probability of the first token of one; `text`: the first point recalled.
    """
    n, kept = cfg.n_verify, [i for i in range(len(questions)) if texts is None or texts[i] is not None]
    views = [view for i in kept for view in same_views(questions[i], n, rng(*start.key, VIEWS, i))]
    unaided = start.sample([start.prompt(v) for v in views], UNAIDED)
    points, scores = [texts[i] for i in kept for _ in range(n)] if texts else [], []
    if texts is None:
        asked = [writer.prompt(v) for v in views]
        turns = writer.sample(asked, RECALLING, max_new_tokens=cfg.max_new_tokens + cfg.max_point_tokens)
        points = [prompts.parse_recall(writer.chat.text(c.ids)) for c in turns]
        first = writer.chat.content_ids(prompts.RECALL.format(point=""))[0]
        for k in range(0, len(kept), 32):
            scores += next_logprobs(writer.model, asked[k * n : (k + 32) * n : n])[:, first].exp().tolist()
    if texts is None and own:
        answers = turns
    elif own:  # the block is put into the recaller's mouth, and it goes on
        blocks = [writer.chat.content_ids(prompts.RECALL.format(point=prompts.plain(p))) for p in points]
        answers = writer.sample([writer.prompt(v) + block for v, block in zip(views, blocks, strict=True)], ANSWERING)
    else:
        answers = start.sample([start.prompt(v, p) for v, p in zip(views, points, strict=True)], ANSWERING)
    right = [[grade(start.chat.text(c.ids), v) for c, v in zip(part, views, strict=True)] for part in (answers, unaided)]
    records = []
    for k, i in enumerate(kept):
        part = slice(k * n, (k + 1) * n)
        record = {"question_id": questions[i].id, "cluster": questions[i].cluster, "with": sum(right[0][part]) / n, "without": sum(right[1][part]) / n}
        if texts is None:
            said = [p for p in points[part] if p is not None]
            record |= {"fired": len(said) / n, "score": scores[k], "text": said[0] if said else None}
        records.append(record)
    return records


# ---- what the recallers' records say together ----------------------------------------------------------------------
def auroc(scores: list[float], needed: list[bool]) -> float | None:
    """Probability that a question that needs a point scores higher than one that does not; None without both kinds."""
    high, low = ([s for s, n in zip(scores, needed, strict=True) if n == kind] for kind in (True, False))
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    return wins / (len(high) * len(low)) if high and low else None


def needs(best: list[dict], gain: float = 0.2, enough: float = 0.9) -> dict[str, bool]:
    """Questions that need a point (the best one gains `gain` over no point), and those that do not (right without one)."""
    kinds = {r["question_id"]: False for r in best if r["without"] >= enough}
    return kinds | {r["question_id"]: True for r in best if r["with"] - r["without"] >= gain}


def interaction(composed: list[dict], first: list[dict], second: list[dict]) -> list[dict]:
    """What a recalled text is worth beyond its parents: acc(composed) - acc(i1) - acc(i2) + acc(none), a question each."""
    one, two = ({r["question_id"]: r["with"] for r in part} for part in (first, second))
    both = [r for r in composed if r["question_id"] in one and r["question_id"] in two]
    return [
        {"question_id": r["question_id"], "cluster": r["cluster"], "with": r["with"] + r["without"], "without": one[r["question_id"]] + two[r["question_id"]]}
        for r in both
    ]  # fmt: skip
