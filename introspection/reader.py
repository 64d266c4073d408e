"""A model that answers questions, with a learning point in its turn or without one, and how its answers are scored.

All points of a question are measured on the same views (tasks/mcq.py), and so is the reader without a point.
"""

import bisect
import math
from dataclasses import dataclass

import torch

from common import Shared, share_of_rank, sum_over_ranks
from introspection import prompts, scored
from introspection.chat import Chat
from introspection.sampling import Completion, next_logprobs, sample
from tasks.answers import find_answer
from tasks.mcq import Question, grade

MIN_PROBABILITY = 0.01  # of reward log_ratio


@dataclass
class Reader:
    """A model that answers questions: sampling settings in one place. `key` starts every noise key (seed, step)."""

    model: object
    chat: Chat
    temperature: float
    max_new_tokens: int
    key: tuple[int, ...]
    generated: int = 0  # tokens sampled so far
    # Completions without a point, where the weights stay as they are (eval.py asks for the same ones often).
    kept: dict | None = None
    answers: str = "sampled"  # or scored
    rationale: bool = True  # whether a scored answer has one
    kv_gib: float = 0.0  # bound of a rollout's keys and values, 0: free memory's on a CPU, none elsewhere
    fire_at: float = 0.5  # probability of a recalled point from which a turn begins with one (recall.py)

    def sample(
        self,
        prompt_ids: list[list[int]],
        phase: int,
        n: int = 1,
        max_new_tokens: int | None = None,
        numbers: list[tuple[int, ...]] | None = None,
        temperature: float | None = None,
    ) -> list[Completion]:
        """n completions of each prompt.

        numbers: what a prompt's noise is keyed by, beside key and phase; default its place. temperature: default the
        reader's, 0 the likeliest tokens.
        """
        numbers = numbers or [(i,) for i in range(len(prompt_ids))]
        keys = [(*self.key, phase, *number, i) for number in numbers for i in range(n)]
        length = max_new_tokens or self.max_new_tokens
        heat = self.temperature if temperature is None else temperature
        ends = sorted(self.chat.eos_ids)
        completions = sample(self.model, prompt_ids, n, length, heat, ends, keys, kv_gib=self.kv_gib)
        self.generated += sum(len(completion.ids) for completion in completions)
        return completions

    def answer(
        self,
        prompt_ids: list[list[int]],
        views: list[Question],
        phase: int,
        n: int = 1,
        max_new_tokens: int | None = None,
        numbers: list[tuple[int, ...]] | None = None,
    ) -> list[Completion]:
        """n answers to each prompt, which asks a view of a question: sampled as above, or scored (scored.py)."""
        if self.answers == "sampled":
            return self.sample(prompt_ids, phase, n, max_new_tokens, numbers)
        asked = [(ids, view) for ids, view in zip(prompt_ids, views, strict=True) for _ in range(n)]
        said = [Completion([], [], True) for _ in asked]
        if self.rationale:
            said = self.sample(prompt_ids, phase, n, max_new_tokens, numbers)
        numbers = numbers or [(i,) for i in range(len(prompt_ids))]
        keys = [(*self.key, phase, *number, i, 1) for number in numbers for i in range(n)]
        settings = (self.rationale, self.kv_gib)
        return scored.append_answers(self.model, self.chat, self.temperature, asked, said, keys, *settings)

    def answer_kept(
        self, prompt_ids: list[list[int]], views: list[Question], phase: int, numbers: list[tuple[int, ...]]
    ) -> list[Completion]:
        """One answer to each prompt.

        With `kept`, what was answered under the same noise key before is not asked again.
        """
        if self.kept is None:
            return self.answer(prompt_ids, views, phase, numbers=numbers)
        names = [(*self.key, phase, *number, *ids) for number, ids in zip(numbers, prompt_ids, strict=True)]
        new = [i for i, name in enumerate(names) if name not in self.kept]
        asked = [prompt_ids[i] for i in new], [views[i] for i in new]
        sampled = self.answer(*asked, phase, numbers=[numbers[i] for i in new])
        self.kept |= {names[i]: completion for i, completion in zip(new, sampled, strict=True)}
        known = set(range(len(names))) - set(new)
        self.generated += sum(len(self.kept[names[i]].ids) for i in known)  # what sampling them again would have cost
        return [self.kept[name] for name in names]

    def prompt(self, question: Question, point: str | None = None) -> list[int]:
        return self.chat.first(question.turn_with(point))


def make_reader(cfg: Shared, model, chat: Chat, key: tuple[int, ...], **more) -> Reader:
    """A reader with a script's settings; more: fields that differ from them."""
    fields = {"answers": cfg.answers, "rationale": cfg.rationale, "kv_gib": cfg.kv_gib} | more
    return Reader(model, chat, cfg.temperature, cfg.max_new_tokens, key, **fields)


# ---- scores --------------------------------------------------------------------------------------------------------
def cut_before_letter(chat: Chat, ids: list[int], view: Question) -> tuple[list[int], str, str] | None:
    """(ids before the token with the answer's letter, that token's text, the letter).

    None if the turn has no answer, or names an option by its text alone: then there is no letter to cut at.
    """
    found = find_answer(chat.text(ids), view.options)
    if found is None or found[0] is None:
        return None
    # The text of the first k ids grows with k, once every thought is over.
    ends = {end for _, end in chat.thinking}
    start = max((k + 1 for k, token in enumerate(ids) if token in ends), default=0)
    k = bisect.bisect_right(range(len(ids) + 1), found[0], lo=start, key=lambda k: len(chat.text(ids[:k])))
    return ids[: k - 1], chat.tokenizer.decode(ids[k - 1 : k]), found[1]


def tokens_alike(tokenizer, token: int, letter: str, letters: str) -> list[int] | None:
    """Ids of a token with each of the letters in the place of its own; None where one of them is no token.

    By the vocabulary's own spelling: a letter that is encoded anew may get a space before it, and so another id.
    """
    piece = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(piece, str) or letter not in piece:
        return None
    ids = tokenizer.convert_tokens_to_ids([piece.replace(letter, other) for other in letters])
    known = all(i is not None and i != tokenizer.unk_token_id for i in ids)
    return ids if known and len(set(ids)) == len(letters) else None


def option_probabilities(
    reader: Reader, prompt_ids: list[list[int]], completions: list[Completion], views: list[Question]
) -> list[float]:
    """Probability of the right option among the options, where the model's own answer names one; 0 without an answer.

    One extra forward over prompt and answer up to the option's letter; far less noisy than the sampled letter, which
    counts where an answer names an option by its text alone.
    """
    scores, asked = [0.0] * len(views), []
    for i, (prompt, completion, view) in enumerate(zip(prompt_ids, completions, views, strict=True)):
        if completion.chances is not None:
            scores[i] = completion.chances[view.answer]
            continue
        # Without a letter, or with an odd token around it: what was sampled.
        scores[i] = float(grade(reader.chat.text(completion.ids), view))
        cut = cut_before_letter(reader.chat, completion.ids, view)
        if cut is not None:
            before, _, letter = cut
            letters = prompts.LETTERS[: len(view.options)]
            ids = tokens_alike(reader.chat.tokenizer, completion.ids[len(before)], letter, letters)
            if ids:
                asked.append((i, prompt + before, ids))
    if asked:
        logprobs = next_logprobs(reader.model, [prompt for _, prompt, _ in asked])  # (n, V)
        for row, (i, _, letter_ids) in enumerate(asked):
            scores[i] = torch.softmax(logprobs[row, letter_ids], dim=-1)[views[i].answer].item()
    return scores


def score(
    reader: Reader, prompt_ids: list[list[int]], completions: list[Completion], views: list[Question], reward: str
) -> tuple[list[float], list[float]]:
    """(accuracies, rewards) of answers to views.

    Rewards are probabilities or their logarithms where those are asked for.
    """
    accuracies = [float(grade(reader.chat.text(c.ids), view)) for c, view in zip(completions, views, strict=True)]
    if reward in ("sampled", "invariance"):
        return accuracies, accuracies
    probabilities = option_probabilities(reader, prompt_ids, completions, views)
    # An answer without a letter has probability 0; the floor keeps one of them from outweighing a whole group.
    if reward == "prob":
        return accuracies, probabilities
    return accuracies, [math.log(max(p, MIN_PROBABILITY)) for p in probabilities]


def accuracy(reader: Reader, questions: list[Question], phase: int, n: int) -> float:
    """Sampled accuracy without a point, n answers a question; the questions are shared among the ranks."""
    questions, numbers = share_of_rank(questions)
    asked = [reader.prompt(q) for q in questions], questions
    completions = reader.answer(*asked, phase, n, numbers=[(i,) for i in numbers])
    right = sum(grade(reader.chat.text(c.ids), questions[i // n]) for i, c in enumerate(completions))
    return sum_over_ranks(right) / sum_over_ranks(len(completions))
