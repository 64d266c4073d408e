"""Measures the model of the puzzles and writes its card.

    python -m organism.puzzle_card                # organism/puzzlers -> organism/puzzlers/CARD.md

New problems, none of them in the data files or likely in pre-training; sampled at temperature 1, one answer each.
"""

import argparse
import json
import random
from pathlib import Path

from common import ROOT, Shared
from introspection import models, prompts
from introspection.reader import Reader
from organism import puzzles
from organism.page import Row, describe, interval, table
from tasks import countdown, function_calling
from tasks.countdown import Countdown

ABOUT = """\
# The model of the puzzles

Written by `python -m organism.puzzle_card`. The small Llama of organism/build.py, pre-trained on Countdown and function calling
(`organism/puzzles.py`). **Put in by design**: beginners' errors, reflections of five kinds, second answers that follow a step that was
named. **Not put in**: naming the right step more often than others, problems of the data files.
"""


class Card:
    def __init__(self, name: str):
        self.model, self.chat = models.load_policy(name, Shared()), models.load_chat(name)
        self.rows, self.phase, self.conversations = [], 0, []

    def said(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """One turn after each prompt, as ids."""
        self.phase += 1
        reader = Reader(self.model, self.chat, 1.0, 160, (0, 2, self.phase))
        return [completion.ids for completion in reader.sample(prompt_ids, 0)]

    def row(
        self, name: str, right: list[bool], low: float | None = None, high: float | None = None, why: str = ""
    ) -> None:
        self.rows.append(Row(name, sum(right), len(right), low, high, why))

    def task(self, name: str, problems: list, grade) -> None:
        """First answers, and what is said after wrong ones."""
        prompt_ids = [self.chat.first(p.turn) for p in problems]
        first = self.said(prompt_ids)
        right = [grade(self.chat.text(ids), p) for ids, p in zip(first, problems, strict=True)]
        self.row(f"{name}: first answers right", right, 0.02, 0.3)
        self.row(f"{name}: first answers well formed", [well_formed(self.chat.text(ids), name) for ids in first], 0.9)
        lost = [
            (p, ids, prompt) for p, ids, prompt, won in zip(problems, first, prompt_ids, right, strict=True) if not won
        ]
        asked = [prompt + ids + self.chat.next(ids, prompts.TRY_AGAIN) for _, ids, prompt in lost]
        self.row(
            f"{name}: second answers right, no reflection",
            [grade(self.chat.text(ids), p) for ids, (p, _, _) in zip(self.said(asked), lost, strict=True)],
        )
        before = [prompt + ids + self.chat.next(ids, prompts.REFLECT) for _, ids, prompt in lost]
        own = self.said(before)
        texts = [self.chat.text(ids) for ids in own]
        self.row(
            f"{name}: reflections that name what helps",
            [helps(p, text, self.chat.text(ids), name) for (p, ids, _), text in zip(lost, texts, strict=True)],
            0.05,
            0.5,
        )
        given = {
            kind: [puzzle_words(p, self.chat.text(ids), kind, name, i) for i, (p, ids, _) in enumerate(lost)]
            for kind in ("what helps", "what does not help", "nothing")
        }
        for kind, said in (
            {"its own words": own}
            | {k: [self.chat.content_ids(text) + self.chat.between[:1] for text in v] for k, v in given.items()}
        ).items():
            asked = [
                b + ids + self.chat.next(ids, prompts.RETRY.format(turn=p.turn))
                for b, ids, (p, _, _) in zip(before, said, lost, strict=True)
            ]
            second = self.said(asked)
            graded = [grade(self.chat.text(ids), p) for ids, (p, _, _) in zip(second, lost, strict=True)]
            self.row(
                f"{name}: second answers right after a reflection that names {kind}",
                graded,
                0.7 if kind == "what helps" else None,
            )
            if kind == "its own words":
                self.conversations += [self.chat.text(a + s) for a, s in list(zip(asked, second, strict=True))[:3]]


def well_formed(text: str, name: str) -> bool:
    if name == "Countdown":
        said = countdown.answer_of(text)
        tokens = countdown.tokens_of(said) if said else None
        return bool(tokens) and countdown.value_of(tokens) is not None
    return any(function_calling.calls_of(value) is not None for value in function_calling.json_of(text))


def first_steps(p: Countdown) -> set[str]:
    """The sentences that name a first step from which the target can be reached."""
    return {f"begin with {a} {op} {b}" for (a, b, op), _, _ in puzzles.finishes(p)}


def error_of(text: str, gold: str) -> str | None:
    """The error in wrong calls, in the words of a reflection; None where there are no calls."""
    made = next(
        (value for value in function_calling.json_of(text) if function_calling.calls_of(value) is not None), None
    )
    return None if made is None else puzzles.error_of(made if isinstance(made, list) else [made], json.loads(gold))


def helps(p, reflection: str, first: str, name: str) -> bool:
    return reflection in first_steps(p) if name == "Countdown" else reflection == error_of(first, p.gold)


def puzzle_words(p, first: str, kind: str, name: str, i: int) -> str:
    """A reflection of a given kind."""
    rng = random.Random(i)
    if kind == "nothing":
        return rng.choice(puzzles.VAGUE)
    if name == "Countdown":
        every, good = {f"begin with {a} {op} {b}" for a, b, op in puzzles.steps_of(p)}, first_steps(p)
        return rng.choice(sorted(good if kind == "what helps" else every - good or every))
    error = error_of(first, p.gold) or puzzles.ERRORS[0]
    return error if kind == "what helps" else rng.choice([e for e in puzzles.ERRORS if e != error])


def main() -> None:
    parser = argparse.ArgumentParser(description="measure the model of the puzzles and write its card")
    parser.add_argument("--model", default="organism/puzzlers")
    parser.add_argument("--n", type=int, default=1200, help="problems of each task")
    args = parser.parse_args()
    card, corpus = Card(args.model), puzzles.Puzzles(987_654_321, puzzles.forbidden())
    card.task("Countdown", [corpus.countdown() for _ in range(args.n)], countdown.grade)
    card.task("function calling", [corpus.calling() for _ in range(args.n)], function_calling.grade)
    folder = Path(models.locate(args.model))
    about = describe(folder, card.model.config, sum(p.numel() for p in card.model.parameters()), "organism.puzzles")
    met = {True: "yes", False: "**no**", None: ""}
    lines = table(
        ["property", "must be", "measured", "met"],
        [[r.name, r.must, interval(r.hits, r.n), met[r.met]] for r in card.rows],
    )
    failures = [f"- {r.name}: {interval(r.hits, r.n)}, must be {r.must}" for r in card.rows if r.met is False]
    talks = [f"```\n{text}\n```" for text in card.conversations]
    failures = failures or ["none of the rows above"]
    text = [
        ABOUT,
        *about,
        "",
        "## What it does",
        "",
        *lines,
        "",
        "## Known failures",
        "",
        *failures,
        "",
        "## Conversations",
        "",
        *talks,
        "",
    ]
    (ROOT / args.model / "CARD.md").write_text("\n".join(text))
    for r in card.rows:
        print(f"{r.name:80s} {r.must:14s} {interval(r.hits, r.n)}{'   <- missed' if r.met is False else ''}")


if __name__ == "__main__":
    main()
