"""Accuracy with and without a learning point, and honest intervals.

A *view* is a question as a verification rollout shows it: the options reshuffled, the right one at a prescribed letter.
All points of a question are measured on the same views, and so is the reader without a point.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

import prompts
import ranks
from chat import Chat
from common import UserError
from rollout import Completion, next_logprobs, sample
from tasks.mcq import Question, grade, reshuffled

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
    kept: dict | None = None  # completions without a point, where the weights stay as they are (eval.py asks for the same ones often)

    def sample(
        self, prompt_ids: list[list[int]], phase: int, n: int = 1, max_new_tokens: int | None = None, numbers: list[tuple[int, ...]] | None = None,
    ) -> list[Completion]:  # fmt: skip
        """n completions of each prompt. numbers: what a prompt's noise is keyed by, beside key and phase; default its place."""
        numbers = numbers or [(i,) for i in range(len(prompt_ids))]
        keys = [(*self.key, phase, *number, i) for number in numbers for i in range(n)]
        length = max_new_tokens or self.max_new_tokens
        completions = sample(self.model, prompt_ids, n, length, self.temperature, sorted(self.chat.eos_ids), keys)
        self.generated += sum(len(completion.ids) for completion in completions)
        return completions

    def sample_kept(self, prompt_ids: list[list[int]], phase: int, numbers: list[tuple[int, ...]]) -> list[Completion]:
        """One completion of each prompt; with `kept`, what was sampled under the same noise key before is not sampled again."""
        if self.kept is None:
            return self.sample(prompt_ids, phase, numbers=numbers)
        names = [(*self.key, phase, *number, *ids) for number, ids in zip(numbers, prompt_ids, strict=True)]
        new = [i for i, name in enumerate(names) if name not in self.kept]
        sampled = self.sample([prompt_ids[i] for i in new], phase, numbers=[numbers[i] for i in new])
        self.kept |= {names[i]: completion for i, completion in zip(new, sampled, strict=True)}
        known = set(new)
        self.generated += sum(len(self.kept[name].ids) for i, name in enumerate(names) if i not in known)  # what it would have cost
        return [self.kept[name] for name in names]

    def prompt(self, question: Question, point: str | None = None) -> list[int]:
        return self.chat.first(prompts.question_turn(question.question, list(question.options), point))


# ---- views ---------------------------------------------------------------------------------------------------------
def same_views(question: Question, n: int, rng: np.random.Generator) -> list[Question]:
    """n orders of the question's own options; the right letter runs through all positions, so a letter earns chance."""
    start = int(rng.integers(len(question.options)))
    return [reshuffled(question, start + v, rng) for v in range(n)]


def transfer_views(question: Question, pool: list[Question], n: int, rng: np.random.Generator) -> list[Question]:
    """n other questions of the pool (each once before any repeats), the right letter running through all positions."""
    others = [q for q in pool if q.id != question.id]
    if not others:
        raise UserError(f"question '{question.id}': verify_on transfer needs a second question in cluster '{question.cluster}'")
    chosen = [others[i] for _ in range(-(-n // len(others))) for i in rng.permutation(len(others))][:n]
    start = int(rng.integers(len(question.options)))
    return [reshuffled(q, start + v, rng) for v, q in enumerate(chosen)]


def twin_views(question: Question, n: int, rng: np.random.Generator) -> list[Question]:
    """n orders of the question's counterfactual twins, in turn; none where the record has no twins."""
    start = int(rng.integers(len(question.options)))
    twins = question.variants
    return [reshuffled(twins[v % len(twins)], start + v, rng) for v in range(n)] if twins else []


# ---- scores --------------------------------------------------------------------------------------------------------
def cut_before_letter(chat: Chat, ids: list[int], view: Question) -> tuple[list[int], str, str] | None:
    """(ids before the token with the answer's letter, that token's text, the letter); None if the turn has no answer."""
    found = prompts.find_answer(chat.text(ids), view.options)
    if found is None:
        return None
    k = next(k for k in range(1, len(ids) + 1) if len(chat.text(ids[:k])) > found[0])
    return ids[: k - 1], chat.text(ids[k - 1 : k]), found[1]


def option_probabilities(reader: Reader, prompt_ids: list[list[int]], completions: list[Completion], views: list[Question]) -> list[float]:
    """Probability of the right option among the options, where the model's own answer names one; 0 without an answer.

    One extra forward over prompt and answer up to the option's letter; far less noisy than the sampled letter.
    """
    scores, asked = [0.0] * len(views), []
    for i, (prompt, completion, view) in enumerate(zip(prompt_ids, completions, views, strict=True)):
        cut = cut_before_letter(reader.chat, completion.ids, view)
        if cut is not None:
            before, token, letter = cut
            letters = prompts.LETTERS[: len(view.options)]
            spelled = {other: reader.chat.content_ids(token.replace(letter, other)) for other in letters}
            if all(len(ids) == 1 for ids in spelled.values()) and letter in token:
                asked.append((i, prompt + before, [ids[0] for ids in spelled.values()]))
            else:  # an odd token around the letter: fall back to what was sampled
                scores[i] = float(letter == view.letter)
    if asked:
        logprobs = next_logprobs(reader.model, [prompt for _, prompt, _ in asked])  # (n, V)
        for row, (i, _, letter_ids) in enumerate(asked):
            scores[i] = torch.softmax(logprobs[row, letter_ids], dim=-1)[views[i].answer].item()
    return scores


def score(reader: Reader, prompt_ids: list[list[int]], completions: list[Completion], views: list[Question], reward: str) -> tuple[list[float], list[float]]:
    """(accuracies, rewards) of answers to views. Rewards are probabilities or their logarithms where those are asked for."""
    accuracies = [float(grade(reader.chat.text(c.ids), view)) for c, view in zip(completions, views, strict=True)]
    if reward in ("sampled", "invariance"):
        return accuracies, accuracies
    probabilities = option_probabilities(reader, prompt_ids, completions, views)
    # An answer without a letter has probability 0; the floor keeps one of them from outweighing a whole group.
    return accuracies, probabilities if reward == "prob" else [math.log(max(p, MIN_PROBABILITY)) for p in probabilities]


def accuracy(reader: Reader, questions: list[Question], phase: int, n: int) -> float:
    """Sampled accuracy without a point, n answers a question; the questions are shared among the ranks."""
    questions, numbers = ranks.mine(questions)
    completions = reader.sample([reader.prompt(q) for q in questions], phase, n, numbers=[(i,) for i in numbers])
    right = sum(grade(reader.chat.text(c.ids), questions[i // n]) for i, c in enumerate(completions))
    return ranks.total(right) / ranks.total(len(completions))


# ---- intervals -----------------------------------------------------------------------------------------------------
def bootstrap_mean(values: np.ndarray, seed: int = 0, resamples: int = 4000) -> tuple[float, float, float]:
    """(mean, low, high): 95 % percentile bootstrap over the entries of `values` (n,), one entry per question."""
    values = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def bootstrap_clusters(seeds: list[dict[str, list[float]]], resamples: int = 2000) -> np.ndarray:
    """Means (resamples,) of a bootstrap that draws seeds, then clusters, then questions (the cluster is the unit).

    seeds: for each training seed, the values of each cluster's questions; every seed has the same questions, in the same order.
    A cluster counts once, however many questions it has. Clusters and questions are crossed with seeds: a draw takes the same
    ones for all seeds, or more seeds would seem to be more questions.
    """
    draw, clusters, means = np.random.default_rng(0), sorted(seeds[0]), np.zeros(resamples)
    sizes = np.array([len(seeds[0][cluster]) for cluster in clusters])  # (C,)
    drawn = draw.integers(len(clusters), size=(resamples, len(clusters)))  # (R, C)
    questions = (draw.random((*drawn.shape, sizes.max())) * sizes[drawn][..., None]).astype(int)  # (R, C, Q), with replacement
    inside = np.arange(sizes.max()) < sizes[drawn][..., None]  # a cluster with fewer questions draws fewer
    times = draw.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples)  # (R, S)
    for s, seed in enumerate(seeds):
        values = np.zeros((len(clusters), sizes.max()))
        for c, cluster in enumerate(clusters):
            values[c, : sizes[c]] = seed[cluster]
        picked = np.where(inside, values[drawn[..., None], questions], 0.0).sum(axis=2) / sizes[drawn]  # (R, C)
        means += times[:, s] / len(seeds) * picked.mean(axis=1)
    return means


def bootstrap_pairs(seeds: list[dict[str, list[float]]], resamples: int = 2000) -> np.ndarray:
    """The same for composites, whose clusters are pairs 'a+b': what is drawn are the parents, because pairs share them.

    A pair weighs the product of how often its parents were drawn; seeds are crossed as above.
    """
    draw, pairs = np.random.default_rng(0), sorted(seeds[0])
    parents = sorted({parent for pair in pairs for parent in pair.split("+")})
    places = np.array([[parents.index(parent) for parent in (pair.split("+") * 2)[:2]] for pair in pairs])  # (pairs, 2)
    times = draw.multinomial(len(parents), np.full(len(parents), 1 / len(parents)), size=resamples)  # (R, parents)
    weights = times[:, places[:, 0]] * times[:, places[:, 1]]  # (R, pairs)
    values = np.array([[np.mean(seed[pair]) for pair in pairs] for seed in seeds])  # (S, pairs)
    drawn = draw.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples) / len(seeds)  # (R, S)
    kept = weights.sum(1) > 0
    return ((drawn @ values)[kept] * weights[kept]).sum(1) / weights[kept].sum(1)


def cluster_means(seeds: list[dict[str, list[float]]]) -> np.ndarray:
    """One value per cluster (C,): the mean over its questions, then over seeds."""
    return np.array([np.mean([np.mean(seed[cluster]) for seed in seeds]) for cluster in sorted(seeds[0])])


def holm(ps: list[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    order, adjusted, highest = np.argsort(ps), [0.0] * len(ps), 0.0
    for k, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - k) * ps[i]))
        adjusted[i] = highest
    return adjusted


def sign_flip(values: np.ndarray, draws: int = 20_000) -> float:
    """Two-sided p of 'the mean is 0' by flipping the signs of the entries (n,): all flips up to n = 14, random ones beyond."""
    n = len(values)
    if n <= 14:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.vstack([np.ones((1, n), dtype=int), 1 - 2 * np.random.default_rng(0).integers(0, 2, size=(draws, n))])
    flipped = np.abs(signs @ values)
    return float(np.mean(flipped >= abs(values.sum()) - 1e-12))


def estimate(seeds: list[dict[str, list[float]]], split: str) -> dict:
    """Mean over clusters, 95 % interval, the one-sided 95 % bounds that non-inferiority asks for, and p of 'the mean is 0'.

    Composites share their parents: they are drawn by parents, and sign flips of pairs would say too much (p None).
    """
    pairs = split == "composite" and all("+" in name for name in seeds[0])  # in table transfer the unit is a question
    low, high, lower, upper = np.quantile((bootstrap_pairs if pairs else bootstrap_clusters)(seeds), [0.025, 0.975, 0.05, 0.95]).tolist()
    means = cluster_means(seeds)
    return {"mean": float(means.mean()), "low": low, "high": high, "lower_bound": lower, "upper_bound": upper, "p": None if pairs else sign_flip(means)}
