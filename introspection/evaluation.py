"""What stage 1 measures before, while and after it trains: the points that the policy writes now, on questions whose
points were never rewarded.
"""

import json
from dataclasses import replace

from common import ReaderNumber, RolloutPhase, busy, gather_ranks, rng, share_of_rank, write
from introspection.metrics import answers_parsed
from introspection.reader import Reader, accuracy
from introspection.rollouts import rollout_1, rollout_2, rollout_3
from introspection.rundir import Run
from introspection.stats import mean
from introspection.verdicts import by_cluster, judge
from tasks.mcq import Question, grade, same_views


@busy("evaluating")
def evaluate(
    reader: Reader,
    questions: list[Question],
    canary: list[Question],
    rewarded: set[str],
    *,
    step: int,
    verify_on: str,
    reveal: str,
    introspect: str,
    max_point_tokens: int,
) -> dict:
    """Accuracy with and without the points that the policy writes now (docs/reference.md, 'Run directory': eval.jsonl).

    Each question: 4 attempts, their points, each tried on 2 other questions of its cluster, or with `verify_on: same`
    on 2 orders of its own options. A point that does not parse or leaks counts as none. rewarded: clusters that
    training rewards; whether these questions are of them decides what the interval is drawn over. The reader's key is
    that of no step: the noise is the same every time, so that before and after are compared like with like.
    """
    part, numbers = share_of_rank(questions)
    kind = "same" if verify_on == "same" else "transfer"
    groups = rollout_1(reader, part, questions, group_size=4, verify_on=kind, n_verify=2, numbers=numbers)
    asked = {"reveal": reveal, "introspect": introspect, "max_point_tokens": max_point_tokens}
    rollout_2(reader, groups, contributors="both", **asked)
    rollout_3(reader, groups, n_fresh=4, reward="sampled")
    answered = [share for part in gather_ranks([answers_parsed(reader.chat, g) for g in groups]) for share in part]
    per_question, written = {}, []
    for group in gather_ranks(groups):
        on = group.on(kind)
        fresh = group.fresh_accuracies_V[on].mean().item()
        told = mean(p.accuracies_V[on].mean().item() if p.valid else fresh for p in group.points)
        per_question[group.question.id] = [told, fresh]
        written += [float(p.text is not None) for p in group.points]
    clusters = {q.id: q.cluster for q in questions}
    gains = {name: told - fresh for name, (told, fresh) in per_question.items()}
    known = judge([by_cluster(gains, clusters)], rewarded=bool(rewarded & set(clusters.values())))
    return {
        "step": step,
        "split": questions[0].split,
        "verified_on": kind,
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


@busy("looking for questions that the start model knows")
def canary_of(run: Run, reader: Reader, questions: list[Question]) -> list[Question]:
    """The questions that show what is forgotten: those that the bank names, or those of `questions` that the start
    model gets right in two orders of their options, asked once and kept in the run directory (canary.json).
    """
    if all(q.split == "canary" for q in questions):
        return questions
    path = run.path / "canary.json"
    if not path.exists():
        known = replace(reader, key=(reader.key[0], 0, ReaderNumber.CANARY))
        views = [v for i, q in enumerate(questions) for v in same_views(q, 2, rng(*known.key, RolloutPhase.VIEWS, i))]
        completions = known.answer([known.prompt(view) for view in views], views, RolloutPhase.CANARY)
        right = [grade(known.chat.text(c.ids), view) for c, view in zip(completions, views, strict=True)]
        kept = [q.id for i, q in enumerate(questions) if right[2 * i] and right[2 * i + 1]]
        write(path, json.dumps(kept))
    kept = set(json.loads(path.read_text()))
    return [q for q in questions if q.id in kept]
