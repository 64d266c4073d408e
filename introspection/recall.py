"""Recall without chance: a threshold on its probability decides whether a turn begins with a point, the likeliest one.

A sampled turn recalls as often as its probability says, so a question that gives 0.7 goes without in three turns of
ten; and a sampled point has as many chances to slip as it has tokens. Stage 2 sets the threshold where recall pays on
the targets that it holds out, and keeps it beside the weights (final/recall.json).
"""

import json
import re
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path

import torch

from common import RecallPhase, busy, rng
from introspection import prompts
from introspection.chat import Chat
from introspection.reader import Reader
from introspection.sampling import next_logprobs
from tasks.mcq import Question, same_views

FILE = "recall.json"


def opening(chat: Chat) -> int:
    """The first token of a recalled point."""
    return chat.content_ids(prompts.RECALL.format(point=""))[0]


def first_logprobs(reader: Reader, asked: list[list[int]], rows: int = 32) -> torch.Tensor:
    """Log-probabilities of the first token of each turn, (N, vocabulary); of the first after a thought that is open."""
    thought = reader.chat.close_thought([])
    prompt_ids = [ids + thought for ids in asked]
    parts = [next_logprobs(reader.model, prompt_ids[k : k + rows]) for k in range(0, len(asked), rows)]
    return torch.cat(parts)


def recall_scores(reader: Reader, asked: list[list[int]]) -> list[float]:
    """Probability that each turn begins with a recalled point."""
    return first_logprobs(reader, asked)[:, opening(reader.chat)].exp().tolist()


def best_threshold(scores: list[float], gains: list[float]) -> float:
    """From which score on it pays most to recall: the sum of the gains there is largest.

    Midway between two scores; the highest of equally good ones; 0.5 where it never pays.
    """
    order = sorted(zip(scores, gains, strict=True), reverse=True)
    best, threshold, paid = 0.0, 0.5, 0.0
    for (score, gain), (lower, _) in zip(order, [*order, (0.0, 0.0)][1:], strict=True):
        paid += gain
        if lower < score and paid > best + 1e-9:
            best, threshold = paid, (score + lower) / 2
    return threshold


def begin_turns(reader: Reader, asked: list[list[int]], threshold: float, draws: list[float]) -> list[list[int]]:
    """How each turn begins: with a recalled point where its probability reaches the threshold, else with another token.

    An open thought is closed before. draws: uniform numbers, one a turn, that choose the other one by its probability.
    """
    first, logprobs = opening(reader.chat), first_logprobs(reader, asked)
    fires = (logprobs[:, first].exp() >= threshold).tolist()
    logprobs[:, first] = -torch.inf
    cumulated = torch.softmax(logprobs.double(), dim=-1).cumsum(-1)  # (N, vocabulary)
    places = torch.tensor(draws, dtype=torch.float64, device=cumulated.device)[:, None] * cumulated[:, -1:]
    others = torch.searchsorted(cumulated, places, right=True)[:, 0].tolist()
    thought = reader.chat.close_thought([])
    return [thought + [first if fire else other] for fire, other in zip(fires, others, strict=True)]


def recall_likeliest(
    reader: Reader, asked: list[list[int]], begun: list[list[int]], phase: int, longest: int
) -> list[list[int]]:
    """Begun turns, those that recall gone on with their likeliest tokens to the end of the point.

    A turn whose point does not end within `longest` tokens stays as it was begun. The others are for sampling on.
    """
    fires = [i for i, ids in enumerate(begun) if ids[-1:] == [opening(reader.chat)]]
    likeliest = reader.sample([asked[i] + begun[i] for i in fires], phase, 1, longest, temperature=0.0)
    recalled = list(begun)
    for i, completion in zip(fires, likeliest, strict=True):
        turns = [begun[i] + completion.ids[:k] for k in range(len(completion.ids) + 1)]
        k = bisect_left(turns, True, key=lambda ids: prompts.parse_recall(reader.chat.text(ids)) is not None)
        recalled[i] = turns[k] if k < len(turns) else begun[i]
    return recalled


def with_each_left_out(question: Question) -> list[Question]:
    """The question, and where it has several sentences the question without each of them.

    What is left to read decides what is recalled: of a question about two things the likeliest point is about one.
    """
    sentences = re.split(r"(?<=[.?!])\s+", question.question)
    rests = [" ".join(sentences[:k] + sentences[k + 1 :]) for k in range(len(sentences))]
    return [question, *(replace(question, question=rest) for rest in rests if rest)]


def threshold_of(folder: Path) -> float:
    """The threshold that stage 2 left beside its weights; 0.5 where it left none."""
    path = folder / FILE
    return json.loads(path.read_text())["threshold"] if path.is_file() else 0.5


@busy("finding the threshold of recall")
def find_threshold(reader: Reader, targets: list, made_up: list[dict]) -> dict:
    """From which probability a turn shall recall (final/).

    A held-out target, in four orders of options, weighs what its point gained when it was measured; all of elsewhere
    weighs as much as all targets, as answers that recall spoils. Elsewhere are the made-up conversations in which the
    start model recalled nothing (it may have been taught other points before); where there are none, the targets that
    need no point.
    """
    draws = [rng(*reader.key, RecallPhase.FIRING, i) for i in range(len(targets))]
    asked = [view for t, draw in zip(targets, draws, strict=True) for view in same_views(t.question, 4, draw)]
    scores = recall_scores(reader, [reader.prompt(view) for view in asked])
    weighed = [(score, targets[i // 4].gain) for i, score in enumerate(scores)]
    turns = [r["turn"] for r in made_up if prompts.without_recall(r["answer"]) == r["answer"]]
    if turns:
        elsewhere = recall_scores(reader, [reader.chat.first(turn) for turn in turns])
    else:
        elsewhere = [score for i, score in enumerate(scores) if targets[i // 4].recall is None]
    weighed += [(score, -len(scores) / len(elsewhere)) for score in elsewhere]
    needed = sum(t.recall is not None for t in targets)
    return {"threshold": best_threshold(*zip(*weighed, strict=True)), "held_out": len(targets), "needed": needed}
