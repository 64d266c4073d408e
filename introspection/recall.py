"""Whether a turn begins with a recalled point: decided by a threshold on the probability of it.

A sampled turn recalls as often as its probability says, so a question that gives 0.7 goes without in three turns of
ten. Stage 2 sets the threshold on the targets that it holds out, and keeps it beside the weights (final/recall.json).
"""

import json
from pathlib import Path

import torch

from common import RecallPhase, rng
from introspection import prompts
from introspection.chat import Chat
from introspection.reader import Reader
from introspection.sampling import next_logprobs
from tasks.mcq import same_views

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


def best_threshold(scores: list[float], needed: list[bool]) -> float:
    """Where to fire: the share that fires where a point is needed, less the share where none is, is largest.

    Midway between two scores; 0.5 unless there are questions of both kinds.
    """
    if len(set(needed)) < 2:
        return 0.5
    places = sorted({0.0, 1.0, *scores})
    between = [(a + b) / 2 for a, b in zip(places, places[1:], strict=False)]

    def told_apart(threshold: float) -> float:
        fires = {kind: [s >= threshold for s, n in zip(scores, needed, strict=True) if n == kind] for kind in (0, 1)}
        return sum(fires[1]) / len(fires[1]) - sum(fires[0]) / len(fires[0])

    return max(between, key=told_apart)


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


def threshold_of(folder: Path) -> float:
    """The threshold that stage 2 left beside its weights; 0.5 where it left none."""
    path = folder / FILE
    return json.loads(path.read_text())["threshold"] if path.is_file() else 0.5


def find_threshold(reader: Reader, targets: list) -> dict:
    """From which probability a turn shall recall, on the held-out targets, in four orders of options (final/)."""
    draws = [rng(*reader.key, RecallPhase.FIRING, i) for i in range(len(targets))]
    asked = [view for t, draw in zip(targets, draws, strict=True) for view in same_views(t.question, 4, draw)]
    needed = [t.recall is not None for t in targets for _ in range(4)]
    scores = recall_scores(reader, [reader.prompt(view) for view in asked])
    return {"threshold": best_threshold(scores, needed), "held_out": len(targets), "needed": sum(needed) // 4}
