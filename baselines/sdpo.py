"""SDPO: the policy, shown feedback or a peer's solution, teaches itself to say the same without them (arXiv
2601.20802).

  1. G answers to each problem, graded
  2. a teacher, the moving average of the policy, reads the problem and what helps with it: the first right answer of
     the group, other than the student's own, or else the feedback on a wrong one; it never writes, it only says what it
     thinks of the student's tokens
  3. the policy moves towards it on its own tokens. `form: topk`: the divergence of the student's k likeliest tokens and
     all others as one (alpha 0 forward KL, 1 reverse KL, between Jensen-Shannon); `form: sampled`: log pi_teacher - log
     pi of the sampled token as its advantage, the reverse KL's gradient in expectation
  4. teacher <- (1 - ema) teacher + ema policy, in fp32
An answer with nothing to show its teacher is not trained. `own_success: true` is SDPO+ss, the baseline that Resd's code
calls SDPO. Rewards are never maximised: they decide whose answers are shown to whom.

Other than the source's code: our own wording of what the teacher reads (introspection/prompts.py; one that the bundled
model can read, without a closing instruction or a limit of length), one mean over all taught tokens of a step instead
of one for each micro-batch; beside a right peer to a multiple-choice question the teacher is told the letter too, which
the peer names.

Inputs:  problems with a grader, a causal language model with a chat template
Outputs: runs/<config>/sdpo/ with metrics.jsonl, eval.jsonl (first answers before and after), final/ weights
Run:     python -m baselines.sdpo --config configs/bank.yaml
"""

from dataclasses import dataclass
from typing import Literal

import torch

import common
from baselines.arena import Arena, Rival
from common import Options, RivalPhase, UserError
from introspection.sampling import Completion, Trajectory
from introspection.teacher import Teacher, divergence, likeliest, logprobs_at, with_tail
from tasks.problem import Problem


@dataclass
class Config(Rival):
    group_size: int = 8  # G, answers to each problem; with 1 only feedback teaches (source: 8)
    form: Literal["topk", "sampled"] = "topk"  # what is compared at each token
    top_k: int = 100  # tokens of form topk, the student's likeliest (source: 100)
    tail: bool = True  # whether all other tokens count as one more; false: the k are normalised (source: true)
    # 0: KL(teacher || student), 1: KL(student || teacher), between: Jensen-Shannon (source: 0.5; its code task: 1)
    alpha: float = 0.5
    reveal: Literal["nothing", "answer", "explanation"] = "answer"  # feedback on a wrong answer
    # whether the teacher sees the feedback beside a peer's solution too (source: false)
    feedback_with_solution: bool = False
    own_success: bool = False  # whether a right answer may be its own solution (SDPO+ss: true)
    ema: float = 0.05  # rate at which the teacher follows the policy, 0: the start policy teaches (source: 0.05)
    updates: int = 1  # optimiser steps on one batch of answers
    is_clip: float = 2.0  # upper bound of the importance weight pi / pi_old; 1 throughout with a single update

    def check(self) -> None:
        super().check()
        self.check_numbers("sdpo", "group_size top_k updates")
        for name in ("alpha", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"sdpo.{name}: expected a number from 0 to 1, got {getattr(self, name)}")
        if self.form == "sampled" and self.alpha != 1:
            raise UserError("sdpo.alpha: form sampled estimates the reverse KL alone; expected alpha: 1")
        if self.reveal == "nothing" and self.group_size == 1 and not self.own_success:
            raise UserError(
                "sdpo.group_size: without feedback and without a group there is nothing to show the teacher"
            )
        if self.is_clip == 0:
            raise UserError("sdpo.is_clip: expected a number above 0")
        if self.kl_coef:
            raise UserError("sdpo.kl_coef: the teacher takes the place of a KL to the start; expected 0")


@dataclass
class Answer:
    """An answer and what its teacher reads after the problem; `shown` is None where there is nothing."""

    problem: Problem
    prompt_ids: list[int]
    completion: Completion
    right: bool
    shown: str | None = None


def answer(cfg: Config, arena: Arena, problems_Q: list[Problem]) -> list[Answer]:
    """G graded answers to each problem, problem by problem."""
    prompt_ids = [arena.chat.first(p.turn) for p in problems_Q]
    answers = []
    for i, completion in enumerate(arena.reader.sample(prompt_ids, RivalPhase.SDPO_ANSWER, cfg.group_size)):
        problem = problems_Q[i // cfg.group_size]
        right = problem.grade(arena.chat.text(completion.ids))
        answers.append(Answer(problem, prompt_ids[i // cfg.group_size], completion, right))
    return answers


def show(cfg: Config, arena: Arena, group: list[Answer]) -> None:
    """Sets what the teacher of each answer of a group reads."""
    right = [a for a in group if a.right]
    for answer in group:
        peer = next((a for a in right if a is not answer or cfg.own_success), None)
        solution = arena.chat.text(peer.completion.ids) if peer else None
        tell = not answer.right and (solution is None or cfg.feedback_with_solution)
        answer.shown = answer.problem.feedback(
            cfg.reveal if tell else "nothing", arena.chat.text(answer.completion.ids), solution
        )


def importance(cfg: Config, now: list[torch.Tensor], sampled: list[Completion]) -> list[torch.Tensor]:
    """min(pi / pi_old, is_clip) of each sampled token, (T,) for each answer.

    now: its log-probabilities under the policy.
    """
    before = [torch.tensor(c.logprobs) for c in sampled]
    return [(n - b).clamp(-20, 20).exp().clamp(max=cfg.is_clip) for n, b in zip(now, before, strict=True)]


def lesson(
    cfg: Config, arena: Arena, students: list[Trajectory], teachers: list[Trajectory], sampled: list[Completion]
) -> tuple[list, Teacher | None]:
    """(weights (T,) of each answer's tokens, what the teacher says).

    With form sampled the weights are advantages and there is no Teacher.
    """
    settings = (cfg.temperature, cfg.max_tokens_per_micro_batch)
    weights = [torch.ones(len(c.ids)) for c in sampled]
    if cfg.updates > 1 or cfg.form == "sampled":
        own = [torch.tensor(c.ids, device=arena.policy.device)[:, None] for c in sampled]  # (T, 1)
        now = [logprobs[:, 0].cpu() for logprobs in logprobs_at(arena.policy, students, own, *settings)]
        if cfg.updates > 1:  # a single update is on policy: all ratios are 1
            weights = importance(cfg, now, sampled)
    if cfg.form == "sampled":
        said = [logprobs[:, 0].cpu() for logprobs in logprobs_at(arena.teacher, teachers, own, *settings)]
        return [w * (s - n) for w, s, n in zip(weights, said, now, strict=True)], None
    ids = likeliest(arena.policy, students, cfg.top_k, *settings)

    def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if cfg.tail:
            return divergence(with_tail(student), with_tail(teacher), cfg.alpha)
        return divergence(student.log_softmax(-1), teacher.log_softmax(-1), cfg.alpha)

    return weights, Teacher(ids, logprobs_at(arena.teacher, teachers, ids, *settings), distance)


def main(cfg: Config, options: Options) -> None:
    arena = Arena(cfg, options, "sdpo")
    if not arena.ready:
        return
    arena.keep_average()
    for step in arena.steps():
        # Sample and grade: G answers to each problem.
        answers = answer(cfg, arena, arena.problems(step))
        # What the teacher reads: a right answer of the same group, or feedback. An answer without either is left out.
        for k in range(0, len(answers), cfg.group_size):
            show(cfg, arena, answers[k : k + cfg.group_size])
        taught = [a for a in answers if a.shown is not None]
        sampled = [a.completion for a in taught]
        students = [Trajectory(a.prompt_ids, [(a.completion.ids, True)]) for a in taught]
        teachers = [Trajectory(arena.chat.first(a.problem.turn + a.shown), [(a.completion.ids, True)]) for a in taught]
        # Update: towards what the teacher says now; `updates` of them leave the policy that sampled behind.
        for _ in range(cfg.updates):
            weights, teacher = lesson(cfg, arena, students, teachers, sampled) if taught else ([], None)
            arena.updater.backward(students, weights, teacher=teacher)
            arena.updater.clip(cfg.max_grad_norm)
            update = arena.updater.apply()
            arena.count(students, weights, update)
        arena.follow(cfg.ema)
        # Log.
        accuracy = sum(a.right for a in answers) / len(answers)
        metrics = {
            "reward": accuracy,
            "accuracy/attempt": accuracy,
            "taught": len(taught) / len(answers),
            "completions/mean_length": sum(len(a.completion.ids) for a in answers) / len(answers),
        }
        arena.finish(step, metrics | update)
    arena.close()


if __name__ == "__main__":
    common.launch(main, Config, "sdpo")
