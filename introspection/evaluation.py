"""What stage 1 measures before, while and after it trains: the points that the policy writes now, on questions whose
points were never rewarded.
"""

from common import RolloutPhase, gather_ranks, share_of_rank
from introspection.reader import Reader, accuracy
from introspection.rollouts import Group, rollout_1, rollout_2, rollout_3
from introspection.stats import mean
from introspection.verdicts import by_cluster, judge
from tasks.mcq import Question, letter_in


def parsed_answers(reader: Reader, group: Group) -> list[float]:
    """Whether each attempt and each answer with a point states an option."""
    turns = [(a.completion.ids, group.question) for a in group.attempts_G]
    turns += [(answer.segments[0][0], group.views_V[v]) for p in group.points for v, answer in p.verifications]
    return [float(letter_in(reader.chat.text(ids), asked.options) is not None) for ids, asked in turns]


def evaluate(
    reader: Reader,
    questions: list[Question],
    canary: list[Question],
    rewarded: set[str],
    *,
    step: int,
    reveal: str,
    introspect: str,
    max_point_tokens: int,
) -> dict:
    """Accuracy with and without the points that the policy writes now (docs/reference.md, 'Records': eval.jsonl).

    Each question: 4 attempts, their points, each tried on 2 other questions of its cluster. A point that does not parse
    or leaks counts as none. rewarded: clusters that training rewards; whether these questions are of them decides what
    the interval is drawn over. The reader's key is that of no step: the noise is the same every time, so that before
    and after are compared like with like.
    """
    part, numbers = share_of_rank(questions)
    groups = rollout_1(reader, part, questions, group_size=4, verify_on="transfer", n_verify=2, numbers=numbers)
    asked = {"reveal": reveal, "introspect": introspect, "max_point_tokens": max_point_tokens}
    rollout_2(reader, groups, contributors="both", **asked)
    rollout_3(reader, groups, n_fresh=4, reward="sampled")
    answered = [share for part in gather_ranks([parsed_answers(reader, g) for g in groups]) for share in part]
    per_question, written = {}, []
    for group in gather_ranks(groups):
        fresh = group.fresh_accuracies_V.mean().item()
        told = mean(p.accuracies_V.mean().item() if p.valid else fresh for p in group.points)
        per_question[group.question.id] = [told, fresh]
        written += [float(p.text is not None) for p in group.points]
    clusters = {q.id: q.cluster for q in questions}
    gains = {name: told - fresh for name, (told, fresh) in per_question.items()}
    known = judge([by_cluster(gains, clusters)], rewarded=bool(rewarded & set(clusters.values())))
    return {
        "step": step,
        "split": questions[0].split,
        "accuracy_with": mean(told for told, _ in per_question.values()),
        "accuracy_without": mean(fresh for _, fresh in per_question.values()),
        "introspection_advantage": mean(gains.values()),
        "ci95": [known.low, known.high],
        "accuracy/canary": accuracy(reader, canary, RolloutPhase.CANARY, 2) if canary else None,
        "parse_rate": mean(written),
        "parse_rate/answer": mean(answered),
        "rewarded": bool(rewarded & set(clusters.values())),
        "clusters": clusters,
        "per_question": per_question,
    }
