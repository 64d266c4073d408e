"""Multiple-choice questions: fair reshuffling of options, and the one grader of this kind of task."""

import functools
from dataclasses import dataclass, replace

import numpy as np

from common import UserError
from introspection import prompts
from introspection.prompts import LETTERS, plain
from tasks.answers import find_answer
from tasks.letters import refer_to_order, without_letters
from tasks.problem import Problem


@dataclass(frozen=True)
class Question(Problem):
    """A question record; `answer` is the index of the right option; `variants` are its counterfactual twins."""

    id: str
    question: str
    options: tuple[str, ...]
    answer: int
    cluster: str
    split: str
    explanation: str | None = None
    variants: tuple["Question", ...] = ()

    @property
    def letter(self) -> str:
        return LETTERS[self.answer]

    @property
    def turn(self) -> str:
        return self.turn_with(None)

    def turn_with(self, point: str | None) -> str:
        """The user turn that asks the question, with a learning point after it where there is one."""
        return prompts.question_turn(self.question, list(self.options), point)

    @property
    def gold(self) -> str:
        return f"Answer: {self.options[self.answer]} ({self.letter})"

    def grade(self, text: str) -> bool:
        return grade(text, self)

    def view(self, draw) -> "Question":
        """Options in a new order: no letter can be learned by heart."""
        return same_views(self, 1, draw)[0]

    def feedback(self, reveal: str, said: str = "", solution: str | None = None) -> str | None:
        """See Problem. A right peer names the right answer too, so naming it beside reveals nothing more."""
        if reveal == "nothing" and solution is None:
            return None
        told = prompts.told(self.explanation if reveal == "explanation" else None, solution)
        return prompts.FEEDBACK.format(answer=plain(self.options[self.answer]), letter=self.letter, told=told)

    @functools.cached_property
    def movable(self) -> bool:
        """Whether the options may be shuffled: none of them refers to another ('all of the above', 'both A and B')."""
        return not refer_to_order(self.options)


@dataclass(frozen=True)
class Exchange:
    """A conversation about a question that was collected elsewhere: texts of its turns, user first, model last."""

    id: str
    question: Question
    turns: tuple[str, ...]
    won: bool


# ---- grading -------------------------------------------------------------------------------------------------------
def letter_in(text: str, options: tuple[str, ...] | list[str]) -> str | None:
    """The letter that a model turn answers; None where `find_answer` finds none."""
    found = find_answer(text, options)
    return found[1] if found else None


def grade(text: str, question: Question) -> bool:
    """Whether a model turn gives the right letter. No letter, a hedge, or a letter outside the options is wrong."""
    return letter_in(text, question.options) == question.letter


def reshuffled(question: Question, gold_at: int, rng: np.random.Generator) -> Question:
    """The question with its right option at letter `gold_at` (mod number of options) and the others in random order."""
    if not question.movable:
        return question
    gold_at %= len(question.options)
    others = [text for i, text in enumerate(question.options) if i != question.answer]
    return in_order(question, [others[i] for i in rng.permutation(len(others))], gold_at)


def in_order(question: Question, others: list[str], gold_at: int) -> Question:
    """The question with its right option at place `gold_at` among the others.

    A new order takes from the explanation the sentences that name options by the letters of the old one.
    """
    options = (*others[:gold_at], question.options[question.answer], *others[gold_at:])
    if options == question.options:
        return question
    explanation = without_letters(question.explanation) if question.explanation else question.explanation
    return replace(question, options=options, answer=gold_at, explanation=explanation)


# ---- views ---------------------------------------------------------------------------------------------------------
# A view is a question as a verification rollout shows it: the options reshuffled, the right one at a prescribed letter.
def same_views(question: Question, n: int, rng: np.random.Generator) -> list[Question]:
    """n orders of the question's own options; the right letter runs through all positions, so a letter earns chance."""
    start = int(rng.integers(len(question.options)))
    return [reshuffled(question, start + v, rng) for v in range(n)]


def transfer_views(question: Question, pool: list[Question], n: int, rng: np.random.Generator) -> list[Question]:
    """n other questions of the pool (each once before any repeats), the right letter running through all positions."""
    others = [q for q in pool if q.id != question.id]
    if not others:
        raise UserError(
            f"question '{question.id}': verify_on transfer needs a second question in cluster '{question.cluster}'"
        )
    chosen = [others[i] for _ in range(-(-n // len(others))) for i in rng.permutation(len(others))][:n]
    start = int(rng.integers(len(question.options)))
    return [reshuffled(q, start + v, rng) for v, q in enumerate(chosen)]


def twin_views(question: Question, n: int, rng: np.random.Generator) -> list[Question]:
    """n orders of the question's counterfactual twins, in turn; none where the record has no twins."""
    start = int(rng.integers(len(question.options)))
    twins = question.variants
    return [reshuffled(twins[v % len(twins)], start + v, rng) for v in range(n)] if twins else []
