"""Supervised fine-tuning: the null that every other method must beat.

  on: gold         every train problem with a right answer
  on: corrections  only what the model got wrong, with what a loser of stage 1 is shown: `reveal: answer` trains the right answer,
                   `reveal: explanation` the record's explanation and then the right answer; the same exchanges, no points

Inputs:  problems, a causal language model with a chat template
Outputs: runs/<config>/sft/ with targets.jsonl, metrics.jsonl, eval.jsonl (first answers before and after), final/ weights
Run:     python -m baselines.sft --config configs/bank.yaml
"""

from dataclasses import dataclass, replace
from typing import Literal

import common
from baselines.arena import Arena, Problem, Rival, in_loss
from common import Run, UserError, rng
from rollout import Trajectory
from tasks.mcq import Question

ATTEMPTS, SHUFFLE, VIEW = 67, 68, 69  # phases, part of every noise key


@dataclass
class Config(Rival):
    on: Literal["gold", "corrections"] = "gold"  # what is trained on
    reveal: Literal["answer", "explanation"] = "answer"  # what a correction says
    attempts: int = 4  # at each train problem; a correction of each wrong one
    batch_size: int = 32  # answers of an optimiser step

    def check(self) -> None:
        super().check()
        for name in ("attempts", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"sft.{name}: expected at least 1, got {getattr(self, name)}")
        if self.reveal == "explanation" and self.task != "mcq":
            raise UserError(f"sft.reveal: problems of task {self.task} have no explanations; expected answer")


def correction(problem: Problem, reveal: str) -> str | None:
    """What the model should have said. Raises UserError for a record without the explanation that is asked for."""
    if reveal == "explanation" and isinstance(problem.source, Question):
        if problem.source.explanation is None:
            raise UserError(f"sft.reveal: question '{problem.id}' has no explanation")
        return f"{problem.source.explanation} {problem.gold}"
    return problem.gold


def make_targets(cfg: Config, arena: Arena) -> list[dict]:
    """Which train problems are trained, and how often: each once, or once for each wrong attempt (targets.jsonl)."""
    if cfg.on == "gold":
        return [{"problem_id": p.id} for p in arena.train if p.gold]
    reader = replace(arena.reader, key=(cfg.seed, 0, 9), generated=0)
    said = reader.sample([arena.chat.first(p.turn) for p in arena.train], ATTEMPTS, cfg.attempts)
    arena.generated += reader.generated
    asked = [(arena.train[i // cfg.attempts], c) for i, c in enumerate(said)]
    return [{"problem_id": p.id} for p, c in asked if p.gold and not p.grade(arena.chat.text(c.ids))]


def main(cfg: Config, run: Run, dry_run: bool) -> None:
    arena = Arena(cfg, run, "sft", dry_run)
    if not arena.ready:
        return
    arena.updater.temperature = 1.0  # cfg.temperature is that of the attempts
    if arena.done == 0:
        for target in make_targets(cfg, arena):
            run.log("targets.jsonl", target)
    targets, problem_of, end = run.read("targets.jsonl"), {p.id: p for p in arena.train}, arena.chat.between[:1]
    if not targets:
        raise UserError(f"{run.path / 'targets.jsonl'}: nothing to train on: every attempt was right, or no problem has a solution")
    for step in arena.steps():
        trajectories = []
        for place in range((step - 1) * cfg.batch_size, step * cfg.batch_size):
            chosen = rng(cfg.seed, SHUFFLE, place // len(targets)).permutation(len(targets))[place % len(targets)]
            problem = problem_of[targets[chosen]["problem_id"]].view(rng(cfg.seed, VIEW, place))
            said = arena.chat.content_ids(correction(problem, cfg.reveal if cfg.on == "corrections" else "answer")) + end
            trajectories.append(Trajectory(arena.chat.first(problem.turn), [(said, True)]))
        weights = [1.0] * len(trajectories)
        update = arena.updater.step(trajectories, weights)
        arena.finish(step, {"targets": len(targets)} | update, in_loss(trajectories, weights, update))
    arena.close()


if __name__ == "__main__":
    common.launch(main, Config, "sft")
