"""Conversations that a model makes up, so that training holds what it says elsewhere (pseudorehearsal, Robins 1995).

From where a user's first words would begin, a chat model goes on as a user (Magpie, arXiv 2406.08464), and then answers
itself. Nothing is asked for beside the weights: no other questions, no labels.
"""

import numpy as np

from common import RehearsalPhase
from introspection.bm25 import Bm25
from introspection.chat import Chat
from introspection.reader import Reader
from introspection.rundir import Run
from introspection.sampling import Trajectory

POOL = 64  # steps after which made-up conversations come again
ENOUGH = 500  # questions of a cluster that tell what it is about; each is compared with all others


def log_made_up(run: Run, reader: Reader, a_step: int, longest_turn: int, about: dict[str, list[str]]) -> int:
    """Writes POOL steps' worth of made-up conversations, less what is not held, to rehearsals.jsonl; how many.

    about: texts of the questions that are trained, by cluster.
    """
    made_up = make_up(reader, n := POOL * a_step, longest_turn, about)
    print(f"{len(made_up)} of {n} made-up conversations are held; the others were cut off or about what is trained")
    for record in made_up:
        run.log("rehearsals.jsonl", record)
    return len(made_up)


def make_up(reader: Reader, n: int, longest_turn: int, variants: dict[str, list[str]]) -> list[dict]:
    """Of n made-up user turns those that ended, and are not about what is trained, each with its answer (record).

    variants: the questions that are trained, by cluster. Answers that were cut off are kept: they are held, not graded.
    """
    completions = reader.sample([reader.chat.opening()], RehearsalPhase.MAKE_UP, n, longest_turn)
    turns = [text for c in completions if (text := user_turn(reader.chat, c.ids)) and text.strip()]
    turns = list(dict.fromkeys(turns))
    # A conversation about what is trained would hold what the training is there to change.
    turns = [turn for turn, like in zip(turns, alike(turns, variants), strict=True) if not like]
    answers = reader.sample([reader.chat.first(turn) for turn in turns], RehearsalPhase.REPLY)
    return [
        {"turn": turn, "answer": reader.chat.text(answer.ids), "answer_ids": answer.ids}
        for turn, answer in zip(turns, answers, strict=True)
    ]


def user_turn(chat: Chat, ids: list[int]) -> str | None:
    """What a made-up user says: up to the words that a template has behind it, or the first control token, which may be
    another than ends a model's turn.

    None where nothing ended it.
    """
    words = chat.words_after_user()
    ends = [k for k, token in enumerate(ids) if token in chat.control_ids | chat.eos_ids]
    text = chat.tokenizer.decode(ids[: ends[0]] if ends else ids)
    text, ended, _ = text.partition(words) if words else (text, "", "")
    return text if ends or ended else None


def alike(turns: list[str], variants: dict[str, list[str]]) -> list[bool]:
    """Whether a turn is nearer to some cluster's variants than to what turns usually are.

    Near is the mean BM25 score; the border lies halfway between the median turn and the median variant, which is held
    against the others (a single one against itself). Most turns must be about something else.
    """
    if not turns:
        return []
    different = [list(dict.fromkeys(part))[:ENOUGH] for part in variants.values()]  # orders of options are no others
    texts = [text for part in different for text in part]
    bm25 = Bm25([*texts, *turns])  # turns as well: words of many conversations tell little
    near = np.array([bm25.scores(turn)[: len(texts)] for turn in turns])  # (turns, texts)
    found, start = np.zeros(len(turns), bool), 0
    for part in different:
        of_part = slice(start, start := start + len(part))
        own = np.array([bm25.scores(text)[of_part] for text in part])  # (variants, variants)
        if len(part) > 1:
            np.fill_diagonal(own, np.nan)
        of_turns = near[:, of_part].mean(axis=1)
        found |= of_turns > (np.median(of_turns) + np.median(np.nanmean(own, axis=1))) / 2
    return found.tolist()


def to_hold(chat: Chat, records: list[dict]) -> list[Trajectory]:
    """Made-up conversations, the answers trained."""
    return [Trajectory(chat.first(r["turn"]), [(r["answer_ids"], True)]) for r in records]


def held_pairs(chat: Chat, records: list[dict]) -> list[tuple[Trajectory, Trajectory]]:
    """The same as stage 2 has a question that needs no point: (nothing recalled and the answer, the answer)."""
    return [(Trajectory(t.prompt_ids, [([], True), *t.segments]), t) for t in to_hold(chat, records)]
