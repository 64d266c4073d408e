"""The three rollouts of an introspection: attempt, learning point, verification (paper, 'GRPO Training Procedure').

Shared by stage 1, which trains the writer, and by every evaluation of a writer. Settings come in as keyword arguments, so
that this file knows no config. Dimension suffixes: _Q question, _G rollout in a group, _V verification view.
"""

from dataclasses import dataclass, field

import torch

import library
import prompts
from common import rng
from measure import Reader, same_views, score, transfer_views, twin_views
from rollout import Completion, Trajectory
from tasks.mcq import Question, grade

ATTEMPTS, POINTS, VERIFY, FRESH, VIEWS, CANARY = range(6)  # phases, part of every noise key


@dataclass
class Point:
    """A learning point and the conversation that led to it; `accuracies_V`, `rewards_V` are nan where not measured."""

    prompt_ids: list[int]
    attempt: Completion
    won: bool
    turn_ids: list[int]  # the user turn between attempt and point
    accuracies_V: torch.Tensor
    rewards_V: torch.Tensor
    completion: Completion | None = None  # the model turn of rollout 2
    text: str | None = None  # its learning point; None: did not parse
    verifications: list[Trajectory] = field(default_factory=list)
    leak: bool = False
    advantage: float = 0.0  # the training weight

    @property
    def valid(self) -> bool:
        return self.text is not None and not self.leak

    def trajectory(self, train_attempt: bool) -> Trajectory:
        """The conversation of rollouts 1 and 2, in the very ids that were sampled; the point is trained, the turns never."""
        return Trajectory(self.prompt_ids, [(self.attempt.ids, train_attempt), (self.turn_ids, False), (self.completion.ids, True)])


@dataclass
class Group:
    """One question: its points, and the views on which all of them and the reader without a point are measured."""

    question: Question
    attempts_G: list[Completion]
    won_G: list[bool]
    views_V: list[Question]
    kinds_V: list[str]  # same | transfer | twin
    points: list[Point] = field(default_factory=list)
    fresh_accuracies_V: torch.Tensor | None = None
    fresh_rewards_V: torch.Tensor | None = None

    def on(self, kind: str) -> torch.Tensor:
        return torch.tensor([k == kind for k in self.kinds_V])

    def gain(self, point: Point, kind: str) -> float | None:
        """Accuracy with the point minus fresh accuracy on the views of a kind; None where they were not measured."""
        on = self.on(kind)
        if not on.any() or point.accuracies_V[on].isnan().any():
            return None
        return (point.accuracies_V[on] - self.fresh_accuracies_V[on]).mean().item()


def rollout_1(reader: Reader, questions: list[Question], pool: list[Question], *, group_size: int, verify_on: str, n_verify: int) -> list[Group]:
    """G attempts on each question, and the views on which its points will be verified.

    pool: where transfer views are drawn from, within the question's cluster. Raises UserError if a cluster is too small.
    """
    completions = reader.sample([reader.prompt(q) for q in questions], ATTEMPTS, group_size)
    groups = []
    for i, question in enumerate(questions):
        views, kinds, draw = [], [], rng(*reader.key, VIEWS, i)
        if verify_on != "transfer":
            twins = twin_views(question, n_verify, draw)
            views += same_views(question, n_verify, draw) + twins
            kinds += ["same"] * n_verify + ["twin"] * len(twins)
        if verify_on != "same":
            views += transfer_views(question, [q for q in pool if q.cluster == question.cluster], n_verify, draw)
            kinds += ["transfer"] * n_verify
        attempts = completions[i * group_size : (i + 1) * group_size]
        won = [grade(reader.chat.text(attempt.ids), question) for attempt in attempts]
        groups.append(Group(question, attempts, won, views, kinds))
    return groups


def rollout_2(reader: Reader, groups: list[Group], *, contributors: str, reveal: str, max_point_tokens: int) -> None:
    """Each attempt's conversation goes on, by token ids, to one learning point; fills `group.points`."""
    for group in groups:
        q, prompt_ids = group.question, reader.prompt(group.question)
        for attempt, won in zip(group.attempts_G, group.won_G, strict=True):
            if contributors != "both" and won != (contributors == "winners"):
                continue
            letter = None if reveal == "nothing" else q.letter
            shown = prompts.told(q.explanation) if reveal == "explanation" else ""
            turn_ids = reader.chat.next(attempt.ids, prompts.reflection_turn(won, letter, q.options[q.answer], shown))
            unmeasured = torch.full((len(group.views_V),), float("nan"))
            group.points.append(Point(prompt_ids, attempt, won, turn_ids, unmeasured, unmeasured.clone()))
    points = [point for group in groups for point in group.points]
    completions = reader.sample([p.prompt_ids + p.attempt.ids + p.turn_ids for p in points], POINTS, 1, max_point_tokens)
    for point, completion in zip(points, completions, strict=True):
        point.completion = completion
        point.text = prompts.parse_point(reader.chat.text(completion.ids))


def rollout_3(reader: Reader, groups: list[Group], *, n_fresh: int, reward: str) -> None:
    """Each point that parsed answers its group's views in fresh conversations; so does the reader without a point.

    Departure from paper: the options are reshuffled against rollout 1, and points that quote an option are also tried on
    the question's twins where it has any, because a loser has seen the answer and could simply pass it on.
    """
    tries = []  # (group, point, view)
    for group in groups:
        for point in group.points:
            quotes = point.text is not None and library.quoted(point.text, group.question.options)
            tries += [(group, point, v) for v, kind in enumerate(group.kinds_V) if point.text is not None and (kind != "twin" or quotes)]
    prompts_ids = [reader.prompt(group.views_V[v], point.text) for group, point, v in tries]
    completions = reader.sample(prompts_ids, VERIFY)
    accuracies, rewards = score(reader, prompts_ids, completions, [group.views_V[v] for group, _, v in tries], reward)
    for i, (group, point, v) in enumerate(tries):
        point.accuracies_V[v], point.rewards_V[v] = accuracies[i], rewards[i]
        if group.kinds_V[v] != "twin":
            point.verifications.append(Trajectory(prompts_ids[i], [(completions[i].ids, True)]))
    views = [view for group in groups for view in group.views_V]
    prompts_ids = [reader.prompt(view) for view in views for _ in range(n_fresh)]
    repeated = [view for view in views for _ in range(n_fresh)]
    accuracies, rewards = score(reader, prompts_ids, reader.sample(prompts_ids, FRESH), repeated, reward)
    means = [torch.tensor(values).reshape(len(views), n_fresh).mean(1).split([len(g.views_V) for g in groups]) for values in (accuracies, rewards)]
    for group, fresh_accuracies, fresh_rewards in zip(groups, *means, strict=True):
        group.fresh_accuracies_V, group.fresh_rewards_V = fresh_accuracies, fresh_rewards
    for group in groups:
        for point in group.points:
            if point.text is not None:
                gains = group.gain(point, "same"), group.gain(point, "twin")
                point.leak = library.is_leak(point.text, group.question.options, *gains, samples=int(group.on("twin").sum()))
