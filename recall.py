"""The conditions of eval.py's table recall: what models taught by stage 2 recall, and what else could be put in its place.

Every condition returns one record a question, tried with its options in new orders: accuracy with the text, and without.
"""

import math
import re
from collections import Counter

import numpy as np

import library
import prompts
from common import rng
from conditions import ELSEWHERE
from introspection import VIEWS
from measure import Reader, same_views
from rollout import next_logprobs
from tasks.mcq import Question, grade

RECALLING, ANSWERING, UNAIDED = range(40, 43)  # phases, part of every noise key


def recalling(recaller: str) -> list[tuple[str, str]]:
    """(condition, reader) of table T8 for one recaller, or for the start model with what it can be given instead."""
    if recaller != "start":
        return [("recalled", "own"), ("recalled", "start")] + [(f"recall: {kind}", "own") for kind in ("emptied", "random", "wrong")]
    return [(name, "start") for name in ("best point", "parent 1", "parent 2", "random point", "wrong point", "ideal point", "BM25", "one point a cluster")]


def clusters_of(question: Question) -> list[str]:
    return question.cluster.split("+") if question.split == "composite" else [question.cluster]


def parents(question: Question, records: list[dict]) -> list[str]:
    """The best of the records for each of a question's clusters, its own question's first."""
    texts = []
    for cluster in clusters_of(question):
        fitting = [r for r in records if r["cluster"] == cluster]
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
    listed = [r for r in records["library"] if r["text"] and not r["leak"]]
    best = {c: library.best([r for r in listed if r["cluster"] == c])["text"] for c in sorted({r["cluster"] for r in listed})}
    documents = [sources.get(r["question_id"], "") + " " + r["text"] for r in listed]
    kind, texts = name.removeprefix("recall: ").removesuffix(" point"), []
    for i, q in enumerate(questions):
        own, others = parents(q, listed), [text for c, text in best.items() if c not in clusters_of(q)]
        whole = own if len(own) == len(clusters_of(q)) else []
        if kind == "best":
            texts.append(". ".join(whole) or None)
        elif kind in ("parent 1", "parent 2"):
            texts.append(whole[int(kind[-1]) - 1] if len(whole) == 2 else None)
        elif kind == "random":
            texts.append(others[rng(ELSEWHERE, i).integers(len(others))] if others else None)
        elif kind in ("wrong", "ideal"):
            texts.append(". ".join(r["text"] for r in records[kind] if r["question_id"] == q.id) or None)
        elif kind == "BM25":
            texts.append(listed[bm25(q.question, documents)]["text"] if listed else None)
        elif kind == "one point a cluster":
            texts.append(". ".join(best.values()) or None)
        else:
            texts.append("")  # emptied
    return texts


def recalled(cfg, writer: Reader, own: bool, start: Reader, questions: list[Question], texts: list[str | None] | None) -> list[dict]:
    """The records of one condition of `recalling`. Every question is asked in n_verify orders of its options.

    texts: from `given`; None where the recaller itself says what it recalls. own: the recaller answers, and where it recalled
    something of its own accord that is replaced by the text; otherwise the start model answers, with the text as a point.
    `without` is always the start model without a point. `fired`: the share of turns that begin with a recalled point; `score`: the
    probability of the first token of one; `text`: the first point recalled.
    """
    n, kept = cfg.n_verify, [i for i in range(len(questions)) if texts is None or texts[i] is not None]
    views = [view for i in kept for view in same_views(questions[i], n, rng(*start.key, VIEWS, i))]
    numbers = [(i, v) for i in kept for v in range(n)]  # a question has the same noise whatever is left out
    unaided = start.sample_kept([start.prompt(v) for v in views], UNAIDED, numbers)
    points = [texts[i] for i in kept for _ in range(n)] if texts else []
    answering, turns = writer if own else start, []
    if own or texts is None:
        asked, longest = [writer.prompt(v) for v in views], cfg.max_new_tokens + cfg.max_point_tokens
        turns = writer.sample(asked, RECALLING, max_new_tokens=longest, numbers=numbers)
        said = [prompts.parse_recall(writer.chat.text(c.ids)) for c in turns]
    if own:
        answers, swapped = list(turns), [k for k, text in enumerate(said) if text is not None and texts is not None]
        blocks = [writer.chat.content_ids(prompts.RECALL.format(point=prompts.plain(points[k]))) for k in swapped]
        forced = writer.sample([asked[k] + block for k, block in zip(swapped, blocks, strict=True)], ANSWERING, numbers=[numbers[k] for k in swapped])
        for k, completion in zip(swapped, forced, strict=True):
            answers[k] = completion
    else:
        told = [start.prompt(v, p) for v, p in zip(views, said if texts is None else points, strict=True)]
        answers = start.sample(told, ANSWERING, numbers=numbers)
    right = [grade(answering.chat.text(c.ids), v) for c, v in zip(answers, views, strict=True)]
    alone = [grade(start.chat.text(c.ids), v) for c, v in zip(unaided, views, strict=True)]
    records = []
    for k, i in enumerate(kept):
        part = slice(k * n, (k + 1) * n)
        records.append({"question_id": questions[i].id, "cluster": questions[i].cluster, "with": sum(right[part]) / n, "without": sum(alone[part]) / n})
        if texts is None:
            fired = [text for text in said[part] if text is not None]
            records[-1] |= {"fired": len(fired) / n, "text": fired[0] if fired else None}
    if texts is None:
        first = writer.chat.content_ids(prompts.RECALL.format(point=""))[0]
        for k in range(0, len(records), 32):
            scores = next_logprobs(writer.model, asked[k * n : (k + 32) * n : n])[:, first].exp().tolist()
            for record, score in zip(records[k : k + 32], scores, strict=True):
                record["score"] = score
    return records


# ---- what the records say together ---------------------------------------------------------------------------------
def auroc(scores: list[float], needed: list[bool]) -> float | None:
    """Probability that a question that needs a point scores higher than one that does not; None without both kinds."""
    high, low = ([s for s, n in zip(scores, needed, strict=True) if n == kind] for kind in (True, False))
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    return wins / (len(high) * len(low)) if high and low else None


def needs(best: list[dict], gain: float = 0.2, enough: float = 0.9) -> dict[str, bool]:
    """Questions that need a point (the best one gains `gain` over no point), and those that do not (right without one)."""
    kinds = {r["question_id"]: False for r in best if r["without"] >= enough}
    return kinds | {r["question_id"]: True for r in best if r["with"] - r["without"] >= gain}
