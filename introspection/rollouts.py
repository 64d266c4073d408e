"""The three rollouts of an introspection: attempt, learning point, verification (paper, 'GRPO Training Procedure').

Shared by stage 1, which trains the writer, and by every evaluation of a writer. Settings come in as keyword arguments,
so that this file knows no config. Dimension suffixes: _Q question, _G rollout in a group, _V verification view.
"""

from dataclasses import dataclass, field

import torch

from common import RolloutPhase, rng
from introspection import detectors, prompts
from introspection.logprobs import collate, token_logprobs
from introspection.reader import Reader, score
from introspection.sampling import Completion, Trajectory, in_parts
from tasks.mcq import Exchange, Question, grade, letter_in, same_views, transfer_views, twin_views


@dataclass
class Attempt:
    """An answer of rollout 1.

    `before`: the segments (ids, sampled) between prompt and answer, where an error was tried again.
    """

    completion: Completion
    won: bool
    before: list[tuple[list[int], bool]] = field(default_factory=list)

    @property
    def segments(self) -> list[tuple[list[int], bool]]:
        return [*self.before, *self.completion.segments]


@dataclass
class Verification:
    """An answer of rollout 3: the view that was asked (its place in the group), the prompt, the turn."""

    view: int
    prompt_ids: list[int]
    completion: Completion

    @property
    def trajectory(self) -> Trajectory:
        return Trajectory(self.prompt_ids, self.completion.segments)


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
    verifications: list[Verification] = field(default_factory=list)
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
        """The conversation of rollouts 1 and 2, in the very ids that were sampled; the point is trained, user turns
        never.

        train_errors: whether attempts before the last one, all of them wrong, are trained.
        """
        before = [(ids, sampled and train_errors) for ids, sampled in self.attempt.before]
        attempt = [(ids, sampled and train_attempt) for ids, sampled in self.attempt.completion.segments]
        return Trajectory(self.prompt_ids, [*before, *attempt, (self.turn_ids, False), (self.completion.ids, True)])


@dataclass
class Group:
    """One question: its points, and the views on which all of them and the reader without a point are measured."""

    number: (
        int  # of the question in its step: part of all its noise keys, so that they do not depend on other questions
    )
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


def views_of(
    question: Question, pool: list[Question], verify_on: str, n_verify: int, draw
) -> tuple[list[Question], list[str]]:
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
    writer: Reader,
    questions: list[Question | Exchange],
    pool: list[Question],
    *,
    group_size: int,
    verify_on: str,
    n_verify: int,
    transfer_pool: str = "cluster",
    correction_turns: int = 0,
    numbers: list[int] | None = None,
) -> list[Group]:
    """G attempts on each question, and the views on which its points will be verified.

    An Exchange (a conversation that was collected elsewhere) takes the place of its question's attempts: G copies of
    it. pool: where transfer views are drawn from, within the question's cluster or, with transfer_pool 'bank', anywhere
    in it. correction_turns: how often a wrong answer is sent back with 'try again' before the conversation goes on
    (paper, 'Meta-Gaming'). numbers: of the questions in the step, where they are only some of it. Raises UserError if a
    cluster is too small.
    """
    groups = []
    for number, asked in zip(numbers or range(len(questions)), questions, strict=True):
        question = asked.question if isinstance(asked, Exchange) else asked
        others = pool if transfer_pool == "bank" else [p for p in pool if p.cluster == question.cluster]
        draw = rng(*writer.key, RolloutPhase.VIEWS, number)
        views, kinds = views_of(question, others, verify_on, n_verify, draw)
        groups.append(Group(number, question, writer.prompt(question), [], views, kinds))
    to_sample = [g for g, q in zip(groups, questions, strict=True) if isinstance(q, Question)]
    keys = [(g.number,) for g in to_sample]
    asked = [g.prompt_ids for g in to_sample], [g.question for g in to_sample]
    sampled = iter(writer.answer(*asked, RolloutPhase.ATTEMPTS, group_size, numbers=keys))
    for group, asked in zip(groups, questions, strict=True):
        if isinstance(asked, Exchange):
            take_exchange(writer, group, asked, group_size)
            continue
        completions = [next(sampled) for _ in range(group_size)]
        group.attempts_G = [Attempt(c, grade(writer.chat.text(c.ids), group.question)) for c in completions]
    for turn in range(correction_turns):
        lost = [(g, i) for g in groups for i, a in enumerate(g.attempts_G) if not a.won]
        try_again(writer, lost, RolloutPhase.CORRECTIONS + turn)
    return groups


def take_exchange(writer: Reader, group: Group, exchange: Exchange, group_size: int) -> None:
    """Puts a given conversation in the place of rollout 1.

    Its model turns were sampled by nobody here: no log-probabilities.
    """
    first, *turns = exchange.turns
    group.prompt_ids, group.exchange_id = writer.chat.first(first), exchange.id
    before = []
    for said, asked in zip(turns[::2], turns[1::2], strict=False):
        ids = writer.chat.turn(said)
        before += [(ids, False), (writer.chat.next(ids, asked), False)]
    last = Completion(writer.chat.turn(turns[-1]), [], True)
    group.attempts_G = [Attempt(last, exchange.won, before) for _ in range(group_size)]


def try_again(writer: Reader, lost: list[tuple[Group, int]], phase: int) -> None:
    """One more attempt in the same conversation, for each of the wrong ones (group, number of the attempt)."""
    attempts = [group.attempts_G[i] for group, i in lost]
    turns = [writer.chat.next(a.completion.ids, prompts.TRY_AGAIN) for a in attempts]
    histories = []
    for (group, _), attempt, turn in zip(lost, attempts, turns, strict=True):
        histories.append(group.prompt_ids + [token for ids, _ in attempt.segments for token in ids] + turn)
    views = [g.question for g, _ in lost]
    completions = writer.answer(histories, views, phase, numbers=[(g.number, i) for g, i in lost])
    for (group, _), attempt, turn, completion in zip(lost, attempts, turns, completions, strict=True):
        attempt.before = [*attempt.segments, (turn, False)]
        attempt.completion, attempt.won = completion, grade(writer.chat.text(completion.ids), group.question)


def feedback(writer: Reader, group: Group, attempt: Attempt, reveal: str, optional: bool, draw) -> str:
    """The user turn after an attempt. A peer is a winner of the same group (paper, 'Cross-learning between rollouts').

    Blind writers are told nothing, not even whether they were right, or a wrong answer without an explanation, whatever
    they said: what their points are worth was not in the exchange.
    """
    q = group.question
    if reveal == "nothing":
        return prompts.reflection_turn(False, None, None, "", optional)
    if reveal == "swapped":
        wrong = [i for i in range(len(q.options)) if i != q.answer]
        said = letter_in(writer.chat.text(attempt.completion.ids), q.options)
        not_said = [i for i in wrong if prompts.LETTERS[i] != said]
        candidates = not_said or wrong
        told = candidates[int(draw.integers(len(candidates)))]
        return prompts.reflection_turn(False, prompts.LETTERS[told], q.options[told], "", optional)
    peer = None
    winners = [a for a in group.attempts_G if a.won]
    if reveal == "peer" and winners and not attempt.won:
        peer = writer.chat.text(winners[int(draw.integers(len(winners)))].completion.ids)
    shown = prompts.told(q.explanation if reveal == "explanation" else None, peer)
    return prompts.reflection_turn(attempt.won, q.letter, q.options[q.answer], shown, optional)


def rollout_2(
    writer: Reader,
    groups: list[Group],
    *,
    contributors: str,
    reveal: str,
    max_point_tokens: int,
    introspect: str = "prompted",
) -> None:
    """Each attempt's conversation goes on, by token ids, to one learning point; fills `group.points`.

    reveal: what losers see beside the verdict: answer | explanation | peer, or nothing | swapped (blind writers).
    introspect: 'optional' asks for a point only if it helps; an empty block is then legal and means none. Where answers
    are scored, the block is opened for the writer, and ends where its turn does: it need not follow that format either.
    """
    optional = introspect == "optional"
    opening = writer.chat.content_ids(prompts.OPENING) if writer.answers == "scored" else []
    for group in groups:
        draw = rng(*writer.key, RolloutPhase.POINTS, group.number)
        for attempt in group.attempts_G:
            if contributors != "both" and attempt.won != (contributors == "winners"):
                continue
            told = feedback(writer, group, attempt, reveal, optional, draw)
            turn_ids = writer.chat.next(attempt.completion.ids, told) + opening
            group.points.append(Point(group.prompt_ids, attempt, turn_ids, *unmeasured(len(group.views_V))))
    points = [point for group in groups for point in group.points]
    numbers = [(group.number, i) for group in groups for i in range(len(group.points))]
    completions = writer.sample([p.exchange_ids for p in points], RolloutPhase.POINTS, 1, max_point_tokens, numbers)
    for point, completion in zip(points, completions, strict=True):
        point.completion = completion
        said = writer.chat.text(completion.ids)
        point.text = prompts.parse_opened(said, optional) if opening else prompts.parse_point(said, optional)


def unmeasured(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The accuracies and rewards of a point on n views, before any is measured."""
    return torch.full((n,), float("nan")), torch.full((n,), float("nan"))


def rollout_3(reader: Reader, groups: list[Group], *, n_fresh: int, reward: str) -> None:
    """Each point that parsed answers its group's views in fresh conversations; so does the reader without a point.

    Departure from paper: the options are reshuffled against rollout 1, and points that quote an option are also tried
    on the question's twins where it has any, because a loser has seen the answer and could simply pass it on.
    """
    tries, numbers = [], []  # (group, point, view); what keys its noise
    for group in groups:
        for i, point in enumerate(group.points):
            if not point.text:
                continue
            quotes = bool(detectors.quoted(point.text, group.question.options))
            views = [v for v, kind in enumerate(group.kinds_V) if kind != "twin" or quotes]
            tries += [(group, point, v) for v in views]
            numbers += [(group.number, i, v) for v in views]
    views = [group.views_V[v] for group, _, v in tries]
    prompts_ids = [reader.prompt(view, point.text) for view, (_, point, _) in zip(views, tries, strict=True)]
    completions = reader.answer(prompts_ids, views, RolloutPhase.VERIFY, numbers=numbers)
    accuracies, rewards = score(reader, prompts_ids, completions, views, reward)
    if reward == "invariance":
        rewards = invariance_rewards(reader, tries, completions)
    for i, (group, point, v) in enumerate(tries):
        point.accuracies_V[v], point.rewards_V[v] = accuracies[i], rewards[i]
        if group.kinds_V[v] != "twin":
            point.verifications.append(Verification(v, prompts_ids[i], completions[i]))
    measure_fresh(reader, groups, n_fresh, reward)
    for group in groups:
        if reward == "log_ratio":  # log p(right | question, point) - log p(right | question), SDPO's Eq. 1
            for point in group.points:
                point.rewards_V -= group.fresh_rewards_V
            group.fresh_rewards_V = torch.zeros_like(group.fresh_rewards_V)
        for point in group.points:
            if point.text == "":  # not writing a point is worth exactly what the reader does without one
                point.accuracies_V, point.rewards_V = group.fresh_accuracies_V.clone(), group.fresh_rewards_V.clone()
            elif point.text is not None:
                gains = group.gain(point, "same"), group.gain(point, "twin")
                samples = int(group.on("twin").sum())
                point.leak = detectors.is_leak(point.text, group.question.options, *gains, samples=samples)


def measure_fresh(reader: Reader, groups: list[Group], n_fresh: int, reward: str) -> None:
    """The reader without a point on every view: fills `fresh_accuracies_V` and `fresh_rewards_V` of each group."""
    views = [view for group in groups for view in group.views_V for _ in range(n_fresh)]
    numbers = [(group.number, v, k) for group in groups for v in range(len(group.views_V)) for k in range(n_fresh)]
    prompts_ids = [reader.prompt(view) for view in views]
    completions = reader.answer_kept(prompts_ids, views, RolloutPhase.FRESH, numbers)
    accuracies, rewards = score(reader, prompts_ids, completions, views, reward)
    sizes = [len(g.views_V) for g in groups]
    means = [torch.tensor(values).reshape(-1, n_fresh).mean(1).split(sizes) for values in (accuracies, rewards)]
    for group, fresh_accuracies, fresh_rewards in zip(groups, *means, strict=True):
        group.fresh_accuracies_V, group.fresh_rewards_V = fresh_accuracies, fresh_rewards


def invariance_rewards(
    reader: Reader, tries: list[tuple[Group, Point, int]], completions: list[Completion]
) -> list[float]:
    """Minus the KL between the answer given (question, point) and the answer given (question, full exchange); needs no
    gold.

    One sample of it for each answer: log p(answer | exchange) - log p(answer | point), summed over the answer's tokens.
    """
    trajectories = []
    for (group, point, v), completion in zip(tries, completions, strict=True):
        trajectories.append(Trajectory(after_exchange(reader, point, group.views_V[v]), [(completion.ids, True)]))
    told = answer_logprobs(reader, trajectories)
    return [logprob - sum(c.logprobs) for logprob, c in zip(told, completions, strict=True)]


def after_exchange(reader: Reader, point: Point, view: Question) -> list[int]:
    """The point's own conversation, an empty block where the point stood, then another question."""
    empty = reader.chat.turn(prompts.INTROSPECTION.format(point=""))
    return point.exchange_ids + empty + reader.chat.next(empty, view.turn)


@torch.no_grad()
def answer_logprobs(reader: Reader, trajectories: list[Trajectory], rows: int = 32) -> list[float]:
    """Sum of the log-probabilities of each trajectory's trained tokens, at the reader's temperature."""
    sums = torch.zeros(len(trajectories))

    def look(part: list[int]) -> None:
        batch = collate(trajectories, [[i] for i in part], reader.model.device)
        sums.index_add_(0, batch.owners.cpu(), token_logprobs(reader.model, batch, reader.temperature).cpu())

    in_parts(look, list(range(len(trajectories))), rows)
    return sums.tolist()
