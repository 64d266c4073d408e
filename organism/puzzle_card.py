"""Measures the model of the puzzles and writes its card.

    python -m organism.puzzle_card                # organism/puzzlers -> organism/puzzlers/CARD.md

New problems, none of them in the data files or likely in pre-training; sampled at temperature 1, one answer each.
"""

import argparse
import json
import random
from pathlib import Path

from common import ROOT
from introspection import models, prompts
from organism import page, puzzles
from tasks import countdown, function_calling
from tasks.countdown import Countdown

ABOUT = """\
# The model of the puzzles

Written by `python -m organism.puzzle_card`. The small Llama of organism/build.py, pre-trained on Countdown and
function calling (`organism/puzzles.py`). **Put in by design**: beginners' errors, reflections of five kinds, second
answers that follow a step that was named. **Not put in**: naming the right step more often than others, problems of
the data files.
"""


class Card(page.BaseCard):
    def sample(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """One turn after each prompt, as ids."""
        return [completion.ids for completion in self.reader().sample(prompt_ids, 0)]

    def measure_task(self, name: str, problems: list, grade) -> list[str]:
        """First answers, and what is said after wrong ones; returns three conversations."""
        chat, prompt_ids = self.chat, [self.chat.first(p.turn) for p in problems]
        first = self.sample(prompt_ids)

        def grades(said: list[list[int]], asked: list) -> list[bool]:
            return [grade(chat.text(ids), p) for ids, p in zip(said, asked, strict=True)]

        right = grades(first, problems)
        self.add_row(f"{name}: first answers right", right, 0.02, 0.3)
        self.add_row(f"{name}: first answers well formed", [well_formed(chat.text(ids), name) for ids in first], 0.9)
        places = [i for i, won in enumerate(right) if not won]
        lost, wrong = [problems[i] for i in places], [first[i] for i in places]
        before = [prompt_ids[i] + first[i] for i in places]
        asked = [b + chat.next(ids, prompts.TRY_AGAIN) for b, ids in zip(before, wrong, strict=True)]
        self.add_row(f"{name}: second answers right, no reflection", grades(self.sample(asked), lost))
        before = [b + chat.next(ids, prompts.REFLECT) for b, ids in zip(before, wrong, strict=True)]
        reflections = {"its own words": self.sample(before)}
        heard = [(p, chat.text(ids)) for p, ids in zip(lost, wrong, strict=True)]
        own = zip(heard, reflections["its own words"], strict=True)
        named = [helps(p, chat.text(ids), answer, name) for (p, answer), ids in own]
        self.add_row(f"{name}: reflections that name what helps", named, 0.05, 0.5)
        for kind in ("what helps", "what does not help", "nothing"):
            reflections[kind] = [
                chat.turn(puzzle_words(p, answer, kind, name, i)) for i, (p, answer) in enumerate(heard)
            ]
        for kind, said in reflections.items():
            asked = [
                b + ids + chat.next(ids, prompts.RETRY.format(turn=p.turn))
                for b, ids, p in zip(before, said, lost, strict=True)
            ]
            second = self.sample(asked)
            self.add_row(
                f"{name}: second answers right after a reflection that names {kind}",
                grades(second, lost),
                0.7 if kind == "what helps" else None,
            )
            if kind == "its own words":
                talks = [chat.text(a + s) for a, s in zip(asked[:3], second[:3], strict=True)]
        return talks


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
    for made in function_calling.json_of(text):
        if function_calling.calls_of(made) is not None:
            return puzzles.error_of(made if isinstance(made, list) else [made], json.loads(gold))
    return None


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
    card, corpus = Card(args.model, 2, 160), puzzles.Puzzles(987_654_321, puzzles.forbidden())
    talks = card.measure_task("Countdown", [corpus.countdown() for _ in range(args.n)], countdown.grade)
    talks += card.measure_task("function calling", [corpus.calling() for _ in range(args.n)], function_calling.grade)
    folder = Path(models.locate(args.model))
    about = page.describe(
        folder, card.model.config, sum(p.numel() for p in card.model.parameters()), "organism.puzzles"
    )
    (ROOT / args.model / "CARD.md").write_text(page.page(ABOUT, about, card.rows, talks))
    page.print_rows(card.rows, (80, 14))


if __name__ == "__main__":
    main()
