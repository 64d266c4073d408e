"""Resd: SDPO for rare success. The policy reflects on its failures, keeps a playbook, and its teacher reads both (arXiv
2605.12741).

Problems come in a stream, each batch once, with K inner updates; an update (one step here) is
  1. one new answer to each problem of the batch, graded
  2. Concise prunes the playbook. Wrong answers: the policy reads the feedback and the playbook, says what it was
     missing and tags entries helpful or harmful; after right ones it only tags. The curator adds to the playbook what
     the reflections teach anew
  3. a teacher, the moving average of the policy, reads the problem, the playbook, the reflection, the wrong answer, the
     feedback, and in the place of the feedback a right answer where there is one: the group's, or the solution buffer's
     from an earlier update
  4. the policy moves towards it on its own k likeliest tokens and all others as one, with the ratio of teacher to
     policy clipped (Eq. 1), each answer weighted against the success rate of the batch (Eq. 2, 3)
  5. teacher <- (1 - ema) teacher + ema policy. An answer without solution, feedback or reflection is not trained
Rewards are never maximised. Each part can be taken away: `reflect`, `playbook`, `curate`, `tag_right`,
`solution_buffer`, `previous_trial`, `rebalance`, `single_pass`; `reveal: nothing`, `inner_updates: 1`, `ratio_low: 0`;
`concise_every: 0`, `max_entries: 0`.

Where the paper is silent or differs from its code: an entry with as many harmful tags as helpful ones is harmful; the
clip's bound follows the policy as a constant, so Eq. 1 holds in value and the gradient is the code's; Concise runs
before an update, and its limit after the curator too (code); the order of update and EMA makes no difference; a step
divides Eq. 3 by its taught tokens, not its answers. Other than the source's code: reflector and curator go on in the
answer's conversation and write blocks and lines instead of JSON, in words that the bundled model can read
(introspection/prompts.py); what does not parse changes nothing and is counted; an entry that is there already is not
added; a solution is shown only under the very options that it answered; the teacher reads the lessons without their
counts, at most 4, and then the reflection, which may say the same, before the wrong answer and the feedback; the
reflector sees what was thought; 8 problems a batch (32); no top-p, no warm-up, no choice among checkpoints. The
settings of the paper's tasks stand in Config's comments.

Inputs:  problems with a grader, a causal language model with a chat template
Outputs: runs/<config>/resd/ with metrics.jsonl, rollouts.jsonl (answers, reflections, what was added, what the teacher
         read), playbook.jsonl, eval.jsonl (first answers before and after), final/ weights
Run:     python -m baselines.resd --config configs/bank.yaml
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

import common
from baselines.arena import Arena, Rival
from baselines.playbook import SECTIONS, Playbook
from common import Options, RivalPhase, UserError, rng
from introspection import prompts
from introspection.sampling import Completion, Trajectory
from introspection.teacher import Teacher, divergence, likeliest, logprobs_at, with_tail
from tasks.problem import Problem


@dataclass
class Config(Rival):
    group_size: int = 1  # answers to each problem in an update (paper: 1)
    # K, updates on the problems of a batch, each with new answers (paper: up to 4, its settings: 4)
    inner_updates: int = 4
    # whether a run that would see a problem in two batches is refused (paper: one pass over the data)
    single_pass: bool = True
    # feedback on a wrong answer (ours, as in sdpo; tasks with their own tell it)
    reveal: Literal["nothing", "answer", "explanation"] = "answer"
    reflect: bool = True  # whether the teacher reads the reflection on a wrong answer (paper: true)
    playbook: bool = True  # whether there is a playbook (paper: true); without it and `reflect` nothing is reflected on
    # whether a curator writes the entries (paper: true); false: reflections themselves become entries
    curate: bool = True
    tag_right: bool = True  # whether entries are tagged after right answers too (paper, appendix G: true)
    solution_buffer: bool = True  # whether right answers of earlier updates are solutions (paper: true)
    own_success: bool = True  # whether a right answer may be its own solution (paper's code: true, in all scripts)
    previous_trial: bool = True  # whether the teacher reads the wrong answer itself (paper's code: true)
    # whether the teacher reads the feedback beside a solution too (paper's code: false)
    feedback_with_solution: bool = False
    # what Concise drops (paper: staleness; prioritized for Manufactoria)
    concise: Literal["staleness", "prioritized"] = "staleness"
    concise_every: int = 4  # F, updates between two Concise without a budget, 0: never (paper: 4)
    # M, entries above which Concise enforces this budget, 0: none (paper: 120 to 200; ours: 12 confuse the bundled
    # model, docs/LOG.md)
    max_entries: int = 4
    # longest reflection, tagging or curation, tokens (ours: the bundled model's points have about 20)
    reflection_tokens: int = 64
    # tokens compared at each place, the policy's likeliest; all others are one more (paper's code: 100)
    top_k: int = 100
    # 0: forward KL(teacher || policy), 1: reverse KL, between: Jensen-Shannon (paper: 0.5 for FiNER, 1 for
    # Manufactoria)
    alpha: float = 0.5
    ratio_low: float = 0.2  # lower bound of teacher / policy, 0: none (paper: 0.2)
    ratio_high: float = 0.0  # upper bound, 0: none (paper: none; 5 for Manufactoria)
    # whether the rarer outcome of a batch weighs more, alpha = beta = 1 of Eq. 2 (paper: true for FiNER, false for
    # Manufactoria)
    rebalance: bool = True
    ema: float = 1e-4  # rate at which the teacher follows the policy, 0: the start policy teaches (paper: 1e-4)

    def check(self) -> None:
        super().check()
        self.check_numbers("resd", "group_size inner_updates reflection_tokens top_k")
        for name in ("alpha", "ema", "ratio_low"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"resd.{name}: expected a number from 0 to 1, got {getattr(self, name)}")
        if 0 < self.ratio_high < 1:
            raise UserError(f"resd.ratio_high: expected 0 (none) or at least 1, got {self.ratio_high}")
        if self.kl_coef:
            raise UserError("resd.kl_coef: the teacher takes the place of a KL to the start; expected 0")
        has_solutions = self.solution_buffer or self.own_success or self.group_size > 1
        if self.reveal == "nothing" and not self.reflect and not has_solutions:
            raise UserError(
                "resd.reveal: without feedback, reflection and solutions there is nothing to show the teacher"
            )


@dataclass
class Answer:
    """An answer, what was learned from it, and what its teacher reads after the problem.

    `shown` is None where there is nothing.
    """

    problem: Problem
    prompt_ids: list[int]
    completion: Completion
    text: str
    right: bool
    told: list[int] = field(default_factory=list)  # the conversation up to the reflection, ids
    said: Completion | None = None  # the reflection as it was sampled
    reflection: str | None = None  # parsed
    added: list[str] = field(default_factory=list)  # entries of the playbook that came of it
    shown: str | None = None


def answer(cfg: Config, arena: Arena, problems_Q: list[Problem]) -> list[Answer]:
    """Graded answers to each problem, problem by problem."""
    prompt_ids = [arena.chat.first(p.turn) for p in problems_Q]
    answers = []
    for i, completion in enumerate(arena.reader.sample(prompt_ids, RivalPhase.RESD_ANSWER, cfg.group_size)):
        problem, text = problems_Q[i // cfg.group_size], arena.chat.text(completion.ids)
        answers.append(Answer(problem, prompt_ids[i // cfg.group_size], completion, text, problem.grade(text)))
    return answers


# ---- context: reflections and the playbook ---------------------------------------------------------------------------
def request_for_tags(playbook: Playbook) -> str:
    """The part of a turn that lists the entries and asks for tags; empty without entries."""
    return prompts.PLAYBOOK.format(entries=prompts.plain(str(playbook))) if playbook.entries else ""


def diagnose(cfg: Config, arena: Arena, playbook: Playbook, wrong: list[Answer]) -> int:
    """Reflections on wrong answers, in their own conversations (REFLECT).

    Tags the playbook, and returns how many tags it took.
    """
    for answer in wrong:
        feedback = (answer.problem.feedback(cfg.reveal, answer.text) or "").removeprefix(prompts.EARLIER)
        turn = prompts.DIAGNOSE.format(feedback=feedback, playbook=request_for_tags(playbook), ask=prompts.ASK)
        answer.told = answer.prompt_ids + answer.completion.ids + arena.chat.next(answer.completion.ids, turn)
    said = arena.reader.sample([a.told for a in wrong], RivalPhase.DIAGNOSIS, max_new_tokens=cfg.reflection_tokens)
    for answer, completion in zip(wrong, said, strict=True):
        answer.said, answer.reflection = completion, prompts.parse_point(arena.chat.text(completion.ids))
    return sum(playbook.tag(prompts.parse_tags(arena.chat.text(a.said.ids))) for a in wrong)


def first_of_each(answers: list[Answer]) -> list[Answer]:
    """The first answer to each problem: more of them would teach the playbook the same (the code's deduplication)."""
    return list({a.problem.id: a for a in reversed(answers)}.values())[::-1]


def confirm(cfg: Config, arena: Arena, playbook: Playbook, right: list[Answer]) -> int:
    """Tags after right answers, one of each problem; returns how many the playbook took."""
    first = first_of_each(right)
    turn = prompts.CONFIRM.format(playbook=request_for_tags(playbook))
    asked = [a.prompt_ids + a.completion.ids + arena.chat.next(a.completion.ids, turn) for a in first]
    said = arena.reader.sample(asked, RivalPhase.TAGS, max_new_tokens=cfg.reflection_tokens) if playbook.entries else []
    return sum(playbook.tag(prompts.parse_tags(arena.chat.text(c.ids))) for c in said)


def curate(cfg: Config, arena: Arena, playbook: Playbook, wrong: list[Answer]) -> tuple[int, int]:
    """Adds to the playbook what reflections teach, one of each problem (CURATE).

    Returns (curations, those that parsed).
    """
    first = first_of_each([a for a in wrong if a.reflection is not None])
    found: list[list[str] | None] = [[a.reflection] for a in first]
    if cfg.curate:
        listed = prompts.plain(str(playbook)) or "empty"
        turn = prompts.CURATE.format(entries=listed, sections=", ".join(SECTIONS), ask=prompts.ASK_OPTIONAL)
        asked = [a.told + a.said.ids + arena.chat.next(a.said.ids, turn) for a in first]
        said = arena.reader.sample(asked, RivalPhase.CURATION, max_new_tokens=cfg.reflection_tokens)
        found = [prompts.parse_entries(arena.chat.text(c.ids)) for c in said]
    for answer, texts in zip(first, found, strict=True):
        answer.added = [str(entry) for entry in map(playbook.add, texts or ()) if entry]
    return len(found), sum(texts is not None for texts in found)


def update_context(cfg: Config, arena: Arena, playbook: Playbook, answers: list[Answer], step: int) -> dict:
    """Concise, reflect, tag, curate, in the paper's order (section 3.3); returns metrics, shares of nothing as None."""
    wrong, right = [a for a in answers if not a.right], [a for a in answers if a.right]
    tagged = curations = parsed = removed = 0
    if cfg.playbook:
        removed = playbook.concise(
            cfg.concise, cfg.concise_every, cfg.max_entries, rng(cfg.seed, RivalPhase.CONCISE, step, 0)
        )
    if cfg.reflect or cfg.playbook:
        tagged = diagnose(cfg, arena, playbook, wrong)
    if cfg.playbook:
        tagged += confirm(cfg, arena, playbook, right) if cfg.tag_right else 0
        curations, parsed = curate(cfg, arena, playbook, wrong)
        # What was added may be above the limit: its trigger alone.
        removed += playbook.concise(cfg.concise, 0, cfg.max_entries, rng(cfg.seed, RivalPhase.CONCISE, step, 1))
        playbook.updates += 1
    reflected = sum(a.said is not None for a in answers)
    return {
        "parse_rate/reflection": sum(a.reflection is not None for a in answers) / reflected if reflected else None,
        "parse_rate/curation": parsed / curations if curations else None,
        "playbook/entries": len(playbook.entries),
        "playbook/added": sum(len(a.added) for a in answers),
        "playbook/removed": removed,
        "playbook/tagged": tagged,
    }


# ---- what the teacher reads, and the objective -----------------------------------------------------------------------
def show(cfg: Config, arena: Arena, playbook: Playbook, solutions: dict[str, str], group: list[Answer]) -> None:
    """Sets what the teacher of each answer of a group reads.

    solutions: right answers of earlier updates by what was asked.
    """
    for answer in group:
        peer = next((a for a in group if a.right and (a is not answer or cfg.own_success)), None)
        solution = peer.text if peer else solutions.get(answer.problem.turn)
        tell = not answer.right and (solution is None or cfg.feedback_with_solution)
        feedback = answer.problem.feedback(cfg.reveal if tell else "nothing", answer.text, solution)
        reflection = answer.reflection if cfg.reflect else None
        if feedback is None and reflection is None:
            continue
        lessons = [e.text for e in playbook.entries]
        if reflection is not None:
            lessons.append(reflection)  # its own lesson comes last
        heard = (feedback or "").removeprefix(prompts.EARLIER)
        if cfg.previous_trial and not answer.right:
            heard = prompts.ATTEMPT.format(attempt=prompts.plain(answer.text)) + heard
        answer.shown = prompts.POINT.format(point=prompts.plain(". ".join(lessons))) if lessons else ""
        if heard:
            answer.shown += prompts.EARLIER + heard


def training_batch(
    cfg: Config, arena: Arena, answers: list[Answer]
) -> tuple[list[Trajectory], list[Trajectory], list[float]]:
    """(as the policy sees them, as the teacher does, weights w_i of Eq. 2) of the answers that have a teacher."""
    right = torch.tensor([float(a.right) for a in answers])  # (B,)
    # Over the whole batch, whoever is taught.
    weights = rebalance(right) if cfg.rebalance else torch.ones(len(answers))  # (B,)
    taught = [(a, w) for a, w in zip(answers, weights.tolist(), strict=True) if a.shown is not None]
    students = [Trajectory(a.prompt_ids, [(a.completion.ids, True)]) for a, _ in taught]
    teachers = [Trajectory(arena.chat.first(a.problem.turn + a.shown), [(a.completion.ids, True)]) for a, _ in taught]
    return students, teachers, [w for _, w in taught]


def bound_ratio(student: torch.Tensor, teacher: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The teacher's log-probabilities with its ratio to the student kept within [low, high] (Resd, Eq. 1).

    0: no such bound.

    The bound follows the student as a constant: no gradient flows through it, and nothing is normalised afterwards.
    """
    fixed = student.detach()
    if low:
        teacher = torch.maximum(teacher, fixed + math.log(low))
    return torch.minimum(teacher, fixed + math.log(high)) if high else teacher


def rebalance(right: torch.Tensor, alpha: float = 1.0, beta: float = 1.0) -> torch.Tensor:
    """Weights (B,) with mean 1 that give the rarer outcome more: (1 - s)^alpha where right, s^beta where not.

    Resd, Eq. 2. right: (B,) of 0 and 1; s: the share of right ones, kept within [1/B, 1 - 1/B]. A batch of one has the
    weight 1.
    """
    if len(right) == 1:  # whatever its share, the mean is its own weight; the bounds of the share would cross
        return torch.ones_like(right)
    share = right.mean().clamp(1 / len(right), 1 - 1 / len(right))
    weights = torch.where(right > 0, (1 - share) ** alpha, share**beta)
    return weights / weights.mean()


def lesson(cfg: Config, arena: Arena, students: list[Trajectory], teachers: list[Trajectory]) -> Teacher:
    """What the teacher says at the policy's likeliest tokens, and Eq. 1 between the two."""
    settings = (cfg.temperature, cfg.max_tokens_per_micro_batch)
    ids = likeliest(arena.policy, students, cfg.top_k, *settings)

    def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        student, teacher = with_tail(student), with_tail(teacher)  # (N, k + 1); the tail is clipped like any token
        return divergence(student, bound_ratio(student, teacher, cfg.ratio_low, cfg.ratio_high), cfg.alpha)

    return Teacher(ids, logprobs_at(arena.teacher, teachers, ids, *settings), distance)


def main(cfg: Config, options: Options) -> None:
    batches = -(-cfg.steps // cfg.inner_updates)  # rounded up
    arena = Arena(cfg, options, "resd", once=batches if cfg.single_pass else 0)
    if not arena.ready:
        return
    run = arena.run
    arena.keep_average()
    playbook, solutions = Playbook(**arena.state.get("playbook", {})), dict(arena.state.get("solutions", {}))
    for step in arena.steps():
        # Sample and grade: new answers to the same batch, K updates long.
        answers = answer(cfg, arena, arena.problems((step - 1) // cfg.inner_updates + 1))
        # Learn in words: reflections on wrong answers, and the playbook that they change.
        metrics = update_context(cfg, arena, playbook, answers, step)
        # What the teacher reads: lessons, and feedback or a solution. The buffer holds right answers of earlier updates
        # alone, so it grows afterwards.
        for k in range(0, len(answers), cfg.group_size):
            show(cfg, arena, playbook, solutions, answers[k : k + cfg.group_size])
        if cfg.solution_buffer:
            solutions |= {a.problem.turn: a.text for a in answers if a.right}
        # Update: towards the teacher, each answer weighted against the success rate of the batch.
        students, teachers, weights = training_batch(cfg, arena, answers)
        teacher = lesson(cfg, arena, students, teachers) if students else None
        arena.updater.backward(students, weights, teacher=teacher)
        arena.updater.clip(cfg.max_grad_norm)
        update = arena.updater.apply()
        arena.count(students, weights, update)
        arena.follow(cfg.ema)
        # Log, and keep what a resumed run needs beyond weights.
        for a in answers:
            record = {"text": a.text, "right": a.right, "reflection": a.reflection, "added": a.added, "shown": a.shown}
            run.log("rollouts.jsonl", {"step": step, "problem_id": a.problem.id} | record)
        playbook.write(run.path / "playbook.jsonl")
        arena.state = {"playbook": playbook.state(), "solutions": solutions}
        accuracy = sum(a.right for a in answers) / len(answers)
        rewards = {
            "reward": accuracy,
            "accuracy/attempt": accuracy,
            "taught": len(students) / len(answers),
            "completions/mean_length": sum(len(a.completion.ids) for a in answers) / len(answers),
            "solutions": len(solutions),
        }
        arena.finish(step, rewards | metrics | update)
    arena.close()


if __name__ == "__main__":
    common.launch(main, Config, "resd")
