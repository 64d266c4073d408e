"""Supervised fine-tuning: the null that every other method must beat.

  on: gold         every train problem with a right answer
  on: corrections  only what the model got wrong, with what a loser of stage 1 is shown: `reveal: answer` trains the
                   right answer, `reveal: explanation` the record's explanation and then the right answer; the same
                   exchanges, no points

Inputs:  problems, a causal language model with a chat template
Outputs: runs/<config>/sft/ with targets.jsonl, metrics.jsonl, eval.jsonl (first answers before and after), final/
         weights
Run:     python -m baselines.sft --config configs/bank.yaml
"""

from dataclasses import dataclass, replace
from typing import Literal

import common
from baselines.arena import Arena, Rival
from common import Options, ReaderNumber, RivalPhase, UserError, rng
from introspection.sampling import Trajectory
from tasks.mcq import Question
from tasks.problem import Problem


@dataclass
class Config(Rival):
    on: Literal["gold", "corrections"] = "gold"  # what is trained on
    reveal: Literal["answer", "explanation"] = "answer"  # what a correction says
    attempts: int = 4  # at each train problem; a correction of each wrong one
    batch_size: int = 32  # answers of an optimiser step

    def check(self) -> None:
        super().check()
        self.check_numbers("sft", "attempts batch_size")
        if self.reveal == "explanation" and self.on == "gold":
            raise UserError("sft.reveal: only corrections say what is revealed; use on: corrections")


def correction(problem: Problem, reveal: str) -> str | None:
    """What the model should have said: the answer alone where its explanation is asked for and there is none."""
    if reveal == "explanation" and isinstance(problem, Question) and problem.explanation:
        return f"{problem.explanation} {problem.gold}"
    return problem.gold


def make_targets(cfg: Config, arena: Arena) -> list[dict]:
    """Which train problems are trained, and how often: each once, or once for each wrong attempt (targets.jsonl)."""
    if cfg.on == "gold":
        return [{"problem_id": p.id} for p in arena.train if p.gold]
    reader = replace(arena.reader, key=(cfg.seed, 0, ReaderNumber.RIVAL_ATTEMPTS), generated=0)
    said = reader.sample([arena.chat.first(p.turn) for p in arena.train], RivalPhase.SFT_ATTEMPTS, cfg.attempts)
    arena.generated += reader.generated
    asked = [(arena.train[i // cfg.attempts], c) for i, c in enumerate(said)]
    return [{"problem_id": p.id} for p, c in asked if p.gold and not p.grade(arena.chat.text(c.ids))]


def main(cfg: Config, options: Options) -> None:
    arena = Arena(cfg, options, "sft", temperature=1.0)  # cfg.temperature is that of the attempts
    if not arena.ready:
        return
    run = arena.run
    if arena.done == 0:  # a resumed run has its targets already
        for target in make_targets(cfg, arena):
            run.log("targets.jsonl", target)
    targets, problem_of = run.read("targets.jsonl"), {p.id: p for p in arena.train}
    if not targets:
        raise UserError(
            f"{run.path / 'targets.jsonl'}: nothing to train on: every attempt was right, or no problem has a solution"
        )
    for step in arena.steps():
        # What is said: the next targets, options in a new order each time.
        batch = common.walk(targets, step, cfg.batch_size, cfg.seed, RivalPhase.SFT_SHUFFLE)
        trajectories = []
        for place, target in enumerate(batch, start=(step - 1) * cfg.batch_size):
            problem = problem_of[target["problem_id"]].view(rng(cfg.seed, RivalPhase.SFT_VIEW, place))
            said = arena.chat.turn(correction(problem, cfg.reveal))  # its end too, or the model would learn to go on
            trajectories.append(Trajectory(arena.chat.first(problem.turn), [(said, True)]))
        # Update: fine-tuning is a policy gradient with every weight 1.
        weights = [1.0] * len(trajectories)
        arena.updater.backward(trajectories, weights)
        arena.updater.clip(cfg.max_grad_norm)
        update = arena.updater.apply()
        arena.count(trajectories, weights, update)
        # Log: nothing is sampled in training, so no step has a reward.
        arena.finish(step, {"targets": len(targets)} | update)
    arena.close()


if __name__ == "__main__":
    common.launch(main, Config, "sft")
