"""The three rollouts of an introspection: attempt, learning point, verification (paper, 'GRPO Training Procedure').

Shared by stage 1, which trains the writer, and by every evaluation of a writer. Settings come in as keyword arguments, so
that this file knows no config. Dimension suffixes: _Q question, _G rollout in a group, _V verification view.
"""

from dataclasses import dataclass, field

import torch

import library
import prompts
from common import rng
from logprobs import collate, token_logprobs
from measure import Reader, same_views, score, transfer_views, twin_views
from rollout import Completion, Trajectory, in_parts
from tasks.mcq import Exchange, Question, grade

ATTEMPTS, POINTS, VERIFY, FRESH, VIEWS, CANARY, CORRECTIONS = range(7)  # phases, part of every noise key


@dataclass
class Attempt:
    """An answer of rollout 1. `before`: the segments (ids, sampled) between prompt and answer, where an error was tried again."""

    completion: Completion
    won: bool
    before: list[tuple[list[int], bool]] = field(default_factory=list)

    @property
    def segments(self) -> list[tuple[list[int], bool]]:
        return [*self.before, (self.completion.ids, True)]


@dataclass
class Point:
    """A learning point and the conversation that led to it; `accuracies_V`, `rewards_V` are nan where not measured."""

    prompt_ids: list[int]
    attempt: Attempt
    turn_ids: list[int]  # the user turn between attempt and point
    accuracies_V: torch.Tensor
    rewards_V: torch.Tensor
    completion: Completion | None = None  # the model turn of rollout 2
    text: str | None = None  # its learning point; None: did not parse; "": the policy chose not to write one
    verifications: list[Trajectory] = field(default_factory=list)
    leak: bool = False
    advantage: float = 0.0  # the training weight

    @property
    def won(self) -> bool:
        return self.attempt.won

    @property
    def valid(self) -> bool:
        return self.text is not None and not self.leak

    @property
    def exchange_ids(self) -> list[int]:
        """Everything up to the point: question, attempts, feedback."""
        return self.prompt_ids + [token for ids, _ in self.attempt.segments for token in ids] + self.turn_ids

    def trajectory(self, train_attempt: bool, train_errors: bool) -> Trajectory:
        """The conversation of rollouts 1 and 2, in the very ids that were sampled; the point is trained, user turns never.

        train_errors: whether attempts before the last one, all of them wrong, are trained.
        """
        before = [(ids, sampled and train_errors) for ids, sampled in self.attempt.before]
        return Trajectory(self.prompt_ids, [*before, (self.attempt.completion.ids, train_attempt), (self.turn_ids, False), (self.completion.ids, True)])


@dataclass
class Group:
    """One question: its points, and the views on which all of them and the reader without a point are measured."""

    number: int  # of the question in its step: part of all its noise keys, so that they do not depend on other questions
    question: Question
    prompt_ids: list[int]
    attempts_G: list[Attempt]
    views_V: list[Question]
    kinds_V: list[str]  # same | transfer | twin
    points: list[Point] = field(default_factory=list)
    fresh_accuracies_V: torch.Tensor | None = None
    fresh_rewards_V: torch.Tensor | None = None
    exchange_id: str | None = None  # of a conversation that was collected elsewhere

    def on(self, kind: str) -> torch.Tensor:
        return torch.tensor([k == kind for k in self.kinds_V])

    def gain(self, point: Point, kind: str) -> float | None:
        """Accuracy with the point minus fresh accuracy on the views of a kind; None where they were not measured."""
        on = self.on(kind)
        if not on.any() or point.accuracies_V[on].isnan().any():
            return None
        return (point.accuracies_V[on] - self.fresh_accuracies_V[on]).mean().item()


def views_of(question: Question, pool: list[Question], verify_on: str, n_verify: int, draw) -> tuple[list[Question], list[str]]:
    """The views on which all points of a question are verified, and their kinds."""
    views, kinds = [], []
    if verify_on != "transfer":
        twins = twin_views(question, n_verify, draw)
        views += same_views(question, n_verify, draw) + twins
        kinds += ["same"] * n_verify + ["twin"] * len(twins)
    if verify_on != "same":
        views += transfer_views(question, pool, n_verify, draw)
        kinds += ["transfer"] * n_verify
    return views, kinds


def rollout_1(
    writer: Reader, questions: list[Question | Exchange], pool: list[Question], *, group_size: int, verify_on: str, n_verify: int,
    transfer_pool: str = "cluster", correction_turns: int = 0, numbers: list[int] | None = None,
) -> list[Group]:  # fmt: skip
    """G attempts on each question, and the views on which its points will be verified.

    An Exchange (a conversation that was collected elsewhere) takes the place of its question's attempts: G copies of it.
    pool: where transfer views are drawn from, within the question's cluster or, with transfer_pool 'bank', anywhere in it.
    correction_turns: how often a wrong answer is sent back with 'try again' before the conversation goes on (paper,
    'Meta-Gaming'). numbers: of the questions in the step, where they are only some of it. Raises UserError if a cluster is
    too small.
    """
    groups = []
    for i, asked in zip(numbers or range(len(questions)), questions, strict=True):
        q = asked.question if isinstance(asked, Exchange) else asked
        others = pool if transfer_pool == "bank" else [p for p in pool if p.cluster == q.cluster]
        views, kinds = views_of(q, others, verify_on, n_verify, rng(*writer.key, VIEWS, i))
        groups.append(Group(i, q, writer.prompt(q), [], views, kinds))
    sampled_groups = [g for g, q in zip(groups, questions, strict=True) if isinstance(q, Question)]
    completions = iter(writer.sample([g.prompt_ids for g in sampled_groups], ATTEMPTS, group_size, numbers=[(g.number,) for g in sampled_groups]))
    for group, asked in zip(groups, questions, strict=True):
        if isinstance(asked, Exchange):
            collected(writer, group, asked, group_size)
        else:
            sampled = [next(completions) for _ in range(group_size)]
            group.attempts_G = [Attempt(c, grade(writer.chat.text(c.ids), group.question)) for c in sampled]
    for turn in range(correction_turns):
        try_again(writer, [(g, i) for g in groups for i, a in enumerate(g.attempts_G) if not a.won], CORRECTIONS + turn)
    return groups


def collected(writer: Reader, group: Group, exchange: Exchange, group_size: int) -> None:
    """Puts a given conversation in the place of rollout 1. Its model turns were sampled by nobody here: no log-probabilities."""
    first, *turns = exchange.turns
    group.prompt_ids, group.exchange_id = writer.chat.first(first), exchange.id
    end = [writer.chat.between[0]]
    before = []
    for said, asked in zip(turns[::2], turns[1::2], strict=False):
        ids = writer.chat.content_ids(said) + end
        before += [(ids, False), (writer.chat.next(ids, asked), False)]
    last = Completion(writer.chat.content_ids(turns[-1]) + end, [], True)
    group.attempts_G = [Attempt(last, exchange.won, before) for _ in range(group_size)]


def try_again(writer: Reader, lost: list[tuple[Group, int]], phase: int) -> None:
    """One more attempt in the same conversation, for each of the wrong ones (group, number of the attempt)."""
    attempts = [group.attempts_G[i] for group, i in lost]
    turns = [writer.chat.next(a.completion.ids, prompts.TRY_AGAIN) for a in attempts]
    histories = [g.prompt_ids + [token for ids, _ in a.segments for token in ids] + turn for (g, _), a, turn in zip(lost, attempts, turns, strict=True)]
    completions = writer.sample(histories, phase, numbers=[(g.number, i) for g, i in lost])
    for (group, _), attempt, turn, completion in zip(lost, attempts, turns, completions, strict=True):
        attempt.before = [*attempt.segments, (turn, False)]
        attempt.completion, attempt.won = completion, grade(writer.chat.text(completion.ids), group.question)


def feedback(writer: Reader, group: Group, attempt: Attempt, reveal: str, optional: bool, draw) -> str:
    """The user turn after an attempt. A peer is a winner of the same group (paper, 'Cross-learning between rollouts').

    Blind writers are told nothing, not even whether they were right, or a wrong answer without an explanation, whatever they said:
    what their points are worth was not in the exchange.
    """
    q = group.question
    if reveal == "nothing":
        return prompts.reflection_turn(False, None, None, "", optional)
    if reveal == "swapped":
        wrong = [i for i in range(len(q.options)) if i != q.answer]
        said = prompts.find_answer(writer.chat.text(attempt.completion.ids), q.options)
        wrong = [i for i in wrong if said is None or prompts.LETTERS[i] != said[1]] or wrong
        told = wrong[int(draw.integers(len(wrong)))]
        return prompts.reflection_turn(False, prompts.LETTERS[told], q.options[told], "", optional)
    peers = [a for a in group.attempts_G if a.won] if reveal == "peer" else []
    peer = writer.chat.text(peers[int(draw.integers(len(peers)))].completion.ids) if peers and not attempt.won else None
    shown = prompts.told(q.explanation if reveal == "explanation" else None, peer)
    return prompts.reflection_turn(attempt.won, q.letter, q.options[q.answer], shown, optional)


def rollout_2(writer: Reader, groups: list[Group], *, contributors: str, reveal: str, max_point_tokens: int, introspect: str = "prompted") -> None:
    """Each attempt's conversation goes on, by token ids, to one learning point; fills `group.points`.

    reveal: what losers see beside the verdict: answer | explanation | peer, or nothing | swapped (blind writers). introspect: 'optional'
    asks for a point only if it helps; an empty block is then legal and means none.
    """
    optional = introspect == "optional"
    for group in groups:
        draw = rng(*writer.key, POINTS, group.number)
        for attempt in group.attempts_G:
            if contributors != "both" and attempt.won != (contributors == "winners"):
                continue
            turn_ids = writer.chat.next(attempt.completion.ids, feedback(writer, group, attempt, reveal, optional, draw))
            unmeasured = torch.full((len(group.views_V),), float("nan"))
            group.points.append(Point(group.prompt_ids, attempt, turn_ids, unmeasured, unmeasured.clone()))
    points = [point for group in groups for point in group.points]
    numbers = [(group.number, i) for group in groups for i in range(len(group.points))]
    completions = writer.sample([p.exchange_ids for p in points], POINTS, 1, max_point_tokens, numbers)
    for point, completion in zip(points, completions, strict=True):
        point.completion = completion
        point.text = prompts.parse_point(writer.chat.text(completion.ids), optional)


def rollout_3(reader: Reader, groups: list[Group], *, n_fresh: int, reward: str) -> None:
    """Each point that parsed answers its group's views in fresh conversations; so does the reader without a point.

    Departure from paper: the options are reshuffled against rollout 1, and points that quote an option are also tried on
    the question's twins where it has any, because a loser has seen the answer and could simply pass it on.
    """
    tries, numbers = [], []  # (group, point, view); what keys its noise
    for group in groups:
        for i, point in enumerate(group.points):
            quotes = bool(point.text) and bool(library.quoted(point.text, group.question.options))
            views = [v for v, kind in enumerate(group.kinds_V) if point.text and (kind != "twin" or quotes)]
            tries += [(group, point, v) for v in views]
            numbers += [(group.number, i, v) for v in views]
    prompts_ids = [reader.prompt(group.views_V[v], point.text) for group, point, v in tries]
    completions = reader.sample(prompts_ids, VERIFY, numbers=numbers)
    accuracies, rewards = score(reader, prompts_ids, completions, [group.views_V[v] for group, _, v in tries], reward)
    if reward == "invariance":
        rewards = invariance(reader, tries, completions)
    for i, (group, point, v) in enumerate(tries):
        point.accuracies_V[v], point.rewards_V[v] = accuracies[i], rewards[i]
        if group.kinds_V[v] != "twin":
            point.verifications.append(Trajectory(prompts_ids[i], [(completions[i].ids, True)]))
    fresh(reader, groups, n_fresh, reward)
    for group in groups:
        for point in group.points:
            if point.text == "":  # not writing a point is worth exactly what the reader does without one
                point.accuracies_V, point.rewards_V = group.fresh_accuracies_V.clone(), group.fresh_rewards_V.clone()
            elif point.text is not None:
                gains = group.gain(point, "same"), group.gain(point, "twin")
                point.leak = library.is_leak(point.text, group.question.options, *gains, samples=int(group.on("twin").sum()))


def fresh(reader: Reader, groups: list[Group], n_fresh: int, reward: str) -> None:
    """The reader without a point on every view: the baseline, and what log-ratios are taken against."""
    views = [view for group in groups for view in group.views_V for _ in range(n_fresh)]
    numbers = [(group.number, v, k) for group in groups for v in range(len(group.views_V)) for k in range(n_fresh)]
    prompts_ids = [reader.prompt(view) for view in views]
    accuracies, rewards = score(reader, prompts_ids, reader.sample_kept(prompts_ids, FRESH, numbers), views, reward)
    sizes = [len(g.views_V) for g in groups]
    means = [torch.tensor(values).reshape(-1, n_fresh).mean(1).split(sizes) for values in (accuracies, rewards)]
    for group, fresh_accuracies, fresh_rewards in zip(groups, *means, strict=True):
        group.fresh_accuracies_V, group.fresh_rewards_V = fresh_accuracies, fresh_rewards
        if reward == "log_ratio":  # log p(right | question, point) - log p(right | question), SDPO's Eq. 1
            for point in group.points:
                point.rewards_V -= fresh_rewards
            group.fresh_rewards_V = torch.zeros_like(fresh_rewards)


def invariance(reader: Reader, tries: list[tuple[Group, Point, int]], completions: list[Completion]) -> list[float]:
    """Minus the KL between the answer given (question, point) and the answer given (question, full exchange); needs no gold.

    One sample of it for each answer: log p(answer | exchange) - log p(answer | point), summed over the answer's tokens. The
    exchange is the point's own conversation with an empty block where the point stood, followed by the view's question.
    """
    empty = reader.chat.content_ids(prompts.INTROSPECTION.format(point="")) + [reader.chat.between[0]]
    trajectories = []
    for (group, point, v), completion in zip(tries, completions, strict=True):
        view = group.views_V[v]
        asked = reader.chat.next(empty, prompts.question_turn(view.question, list(view.options)))
        trajectories.append(Trajectory(point.exchange_ids + empty + asked, [(completion.ids, True)]))
    return [told - sum(c.logprobs) for told, c in zip(answer_logprobs(reader, trajectories), completions, strict=True)]


@torch.no_grad()
def answer_logprobs(reader: Reader, trajectories: list[Trajectory], rows: int = 32) -> list[float]:
    """Sum of the log-probabilities of each trajectory's trained tokens, at the reader's temperature."""
    sums = torch.zeros(len(trajectories))

    def look(part: list[int]) -> None:
        batch = collate(trajectories, [[i] for i in part], reader.model.device)
        sums.index_add_(0, batch.owners.cpu(), token_logprobs(reader.model, batch, reader.temperature).cpu())

    in_parts(look, list(range(len(trajectories))), rows)
    return sums.tolist()
