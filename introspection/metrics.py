"""What a step logs of its three rollouts (docs/reference.md, 'Metrics')."""

import torch

from introspection import detectors
from introspection.chat import Chat
from introspection.rollouts import Group
from introspection.sampling import Completion
from introspection.stats import mean
from tasks.mcq import letter_in


def answers_parsed(chat: Chat, group: Group) -> list[float]:
    """Whether each attempt, and each answer with a point, states an option."""
    turns = [(a.completion, group.question) for a in group.attempts_G]
    turns += [(answer.completion, group.views_V[answer.view]) for p in group.points for answer in p.verifications]
    return [float(letter_in(chat.text(turn.ids), asked.options) is not None) for turn, asked in turns]


def clipped(turns: list[Completion]) -> float | None:
    """The share of turns that were cut off at their limit."""
    return mean(float(not turn.finished) for turn in turns)


def step_metrics(chat: Chat, groups: list[Group], scores_QG: list[torch.Tensor]) -> dict:
    """The metrics of the three rollouts (docs/reference.md, 'Metrics').

    Advantages here are never centred and never clipped.
    """
    pairs = [(group, point) for group in groups for point in group.points]
    counted = [(group, point) for group, point in pairs if point.valid]
    valid_scores = [scores[~scores.isnan()] for scores in scores_QG]
    attempts, written = [a.completion for g in groups for a in g.attempts_G], [p.completion for _, p in pairs]
    answers = [answer.completion for _, p in pairs for answer in p.verifications]
    turns = attempts + written
    gains = {kind: [(g.gain(p, kind), p.won) for g, p in counted] for kind in ("same", "transfer")}
    all_gains = [(gain, won) for kind in gains for gain, won in gains[kind]]
    return {
        "reward": mean(s for scores in valid_scores for s in scores.tolist()),
        "reward_std": mean(scores.std().item() for scores in valid_scores if len(scores) > 1),
        "frac_reward_zero_std": mean(
            float(len(scores) < 2 or scores.max().item() == scores.min().item()) for scores in valid_scores
        ),
        "accuracy/attempt": mean(float(a.won) for g in groups for a in g.attempts_G),
        "accuracy/verify": mean(p.accuracies_V[~g.on("twin")].mean().item() for g, p in counted),
        "accuracy/fresh": mean(g.fresh_accuracies_V[~g.on("twin")].mean().item() for g, _ in counted),
        "introspection_advantage/same": mean(gain for gain, _ in gains["same"]),
        "introspection_advantage/transfer": mean(gain for gain, _ in gains["transfer"]),
        "introspection_advantage/winners": mean(gain for gain, won in all_gains if won),
        "introspection_advantage/losers": mean(gain for gain, won in all_gains if not won),
        "leak_rate": mean(float(p.leak) for _, p in pairs if p.text is not None),
        "meta_gaming_rate": mean(float(detectors.is_meta_gaming(p.text)) for _, p in pairs if p.text is not None),
        "parse_rate": mean(float(p.text is not None) for _, p in pairs),
        "parse_rate/answer": mean(share for g in groups for share in answers_parsed(chat, g)),
        "entropy": mean(-logprob for turn in turns for logprob in turn.logprobs),
        "completions/mean_length": mean(float(len(turn.ids)) for turn in turns),
        "completions/clipped_ratio": clipped(turns),
        "clipped/rollout1": clipped(attempts),
        "clipped/rollout2": clipped(written),
        "clipped/rollout3": clipped(answers),
    }
