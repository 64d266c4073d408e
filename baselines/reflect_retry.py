"""Reflect, Retry, Reward: reinforcement of reflections that lead to a right second try (arXiv 2505.24726).

  1. before training, train problems are attempted `collect` times and wrong attempts that ended are kept (rejection
     sampling): the policy that is trained never changes them, so they go stale as it improves
  2. a step takes some failures; each is told 'wrong', without the right answer, and G reflections are sampled after it
  3. the same conversation goes on: the problem is asked again, and the second answer is graded
  4. GRPO on the tokens of the reflection only: 1 where the second try is right; answers are never rewarded themselves
`reflect: false` is the control: 'try again' at once, and the second answer's own tokens are trained.

Reconstructed (no public code): the group is G reflections after one failed attempt; wordings in
introspection/prompts.py. `kl_coef` is 0 (source: 0.001), a step takes 8 failures (256), the learning rate is constant.

Inputs:  problems with a grader, a causal language model with a chat template
Outputs: runs/<config>/reflect_retry/ with targets.jsonl (failures), metrics.jsonl, eval.jsonl (first and second tries),
         final/ weights
Run:     python -m baselines.reflect_retry --config configs/bank.yaml
"""

from dataclasses import dataclass, replace

import torch

import common
from baselines.arena import Arena, Rival
from common import Options, ReaderNumber, RivalPhase, UserError
from introspection import prompts
from introspection.losses import group_advantages
from introspection.reader import Reader
from introspection.rundir import Run
from introspection.sampling import Completion, Trajectory
from tasks.problem import Problem


@dataclass
class Config(Rival):
    group_size: int = 16  # G, reflections on each failure
    collect: int = 8  # attempts at each train problem from which failures are kept (the source: up to 64)
    reflect: bool = True  # whether a reflection is written before the second try (false: the control)
    reflection_tokens: int = 48  # longest reflection
    scale_rewards: bool = True  # whether advantages are divided by the group's standard deviation

    def check(self) -> None:
        super().check()
        self.check_numbers("reflect_retry", "collect reflection_tokens")
        if self.group_size < 2:
            raise UserError("reflect_retry.group_size: a group of 1 has no spread around its mean; expected at least 2")


@dataclass
class Try:
    """A conversation after a wrong first answer, in token ids.

    `before` is the part that is given; then comes what was sampled.
    """

    problem: Problem
    before: list[int]
    reflection: Completion | None = None
    second: Completion | None = None
    asked: tuple[int, ...] = ()  # ids between reflection and second answer
    right: bool = False

    def trajectory(self) -> Trajectory:
        """Ends with the reflection (the second answer where there is none).

        Nothing of what follows is trained, and a causal model's reflection does not see it.
        """
        trained = self.second if self.reflection is None else self.reflection
        return Trajectory(self.before, [(trained.ids, True)])


# ---- the second try --------------------------------------------------------------------------------------------------
def open_try(reader: Reader, problem: Problem, attempt_ids: list[int], reflect: bool) -> Try:
    """The conversation up to where the model goes on: a reflection, or at once the second answer."""
    turn = prompts.REFLECT if reflect else prompts.TRY_AGAIN
    return Try(problem, reader.chat.first(problem.turn) + attempt_ids + reader.chat.next(attempt_ids, turn))


def try_again(
    reader: Reader, tries: list[Try], numbers: list[tuple[int, ...]], reflect: bool, reflection_tokens: int
) -> None:
    """Samples reflections and second answers, and grades these."""
    if reflect:
        reflections = reader.sample(
            [t.before for t in tries], RivalPhase.REFLECTION, max_new_tokens=reflection_tokens, numbers=numbers
        )
        for one, reflection in zip(tries, reflections, strict=True):
            one.reflection = reflection
            one.asked = tuple(reader.chat.next(reflection.ids, prompts.RETRY.format(turn=one.problem.turn)))
    asked = [t.before + (t.reflection.ids if t.reflection else []) + list(t.asked) for t in tries]
    for one, second in zip(tries, reader.sample(asked, RivalPhase.SECOND, numbers=numbers), strict=True):
        one.second, one.right = second, one.problem.grade(reader.chat.text(second.ids))


def second_tries(cfg: Config, arena: Arena, step: int) -> dict:
    """First tries, and after wrong ones second tries with and without a reflection: accuracies and length of
    reflections by split.

    A problem counts as solved at the second try if it was at the first. The same noise at every step.
    """
    reader = replace(arena.reader, key=(cfg.seed, 0, ReaderNumber.RIVAL_TRIES), temperature=cfg.eval_temperature)
    record: dict = {"step": step, "tries": {}}
    for k, (split, problems) in enumerate(arena.groups.items()):
        pairs = [(i, j) for i in range(len(problems)) for j in range(cfg.n_eval)]  # (problem, answer)
        prompt_ids = [arena.chat.first(problems[i].turn) for i, _ in pairs]
        first = reader.sample(prompt_ids, RivalPhase.TRIES, numbers=[(k, *pair) for pair in pairs])
        said = dict(zip(pairs, first, strict=True))
        right = {(i, j): problems[i].grade(arena.chat.text(c.ids)) for (i, j), c in said.items()}
        lost = [pair for pair in pairs if not right[pair]]
        columns, lengths = {"first": right}, []
        for name, reflect in (("second", True), ("second without reflection", False)):
            tries = [open_try(reader, problems[i], said[i, j].ids, reflect) for i, j in lost]
            if tries:
                try_again(reader, tries, [(k, *pair) for pair in lost], reflect, cfg.reflection_tokens)
            columns[name] = right | {pair: t.right for pair, t in zip(lost, tries, strict=True)}
            lengths += [len(t.reflection.ids) for t in tries if t.reflection]
        each = {
            name: {p.id: sum(column[i, j] for j in range(cfg.n_eval)) / cfg.n_eval for i, p in enumerate(problems)}
            for name, column in columns.items()
        }
        accuracy = {name: sum(part.values()) / len(part) for name, part in each.items()}
        record["tries"][split] = accuracy | {"reflection_tokens": sum(lengths) / max(1, len(lengths)), "each": each}
    return record


# ---- failures --------------------------------------------------------------------------------------------------------
def collect(cfg: Config, arena: Arena) -> list[dict]:
    """Wrong attempts of the start policy at train problems, at most one kept of equal ones (targets.jsonl)."""
    reader = replace(arena.reader, key=(cfg.seed, 0, ReaderNumber.RIVAL_COLLECT), generated=0)
    said = reader.sample([arena.chat.first(p.turn) for p in arena.train], RivalPhase.COLLECT, cfg.collect)
    arena.generated += reader.generated
    kept = {}
    for i, completion in enumerate(said):
        problem = arena.train[i // cfg.collect]
        if completion.finished and not problem.grade(arena.chat.text(completion.ids)):
            failure = {"problem_id": problem.id, "attempt_ids": completion.ids}
            kept.setdefault((problem.id, tuple(completion.ids)), failure)
    return list(kept.values())


def show(run: Run) -> None:
    """Second tries of a finished run, before and after."""
    for record in (r for r in run.read("eval.jsonl") if "tries" in r):
        parts = [
            f"{split} " + ", ".join(f"{name} {value:.3f}" for name, value in part.items() if name != "each")
            for split, part in record["tries"].items()
        ]
        print(f"   step {record['step']}: " + "; ".join(parts))


def main(cfg: Config, options: Options) -> None:
    arena = Arena(cfg, options, "reflect_retry")
    run = arena.run
    if not arena.ready:
        show(run)
        return
    if arena.done == 0:  # a resumed run has its failures already
        for failure in collect(cfg, arena):
            run.log("targets.jsonl", failure)
        run.log("eval.jsonl", second_tries(cfg, arena, 0))
    failures, problem_of = run.read("targets.jsonl"), {p.id: p for p in arena.train}
    if not failures:
        raise UserError(
            f"{run.path / 'targets.jsonl'}: no attempt at a train problem ended and was wrong; "
            "there is nothing to reflect on"
        )
    for step in arena.steps():
        # Sample: G reflections on each of the next failures, a second answer after each; only that is graded.
        chosen = common.walk(failures, step, cfg.problems_per_step, cfg.seed, RivalPhase.COLLECT)
        repeated = [(problem_of[f["problem_id"]], f["attempt_ids"]) for f in chosen for _ in range(cfg.group_size)]
        tries = [open_try(arena.reader, problem, ids, cfg.reflect) for problem, ids in repeated]
        numbers = [(k // cfg.group_size, k % cfg.group_size) for k in range(len(tries))]
        try_again(arena.reader, tries, numbers, cfg.reflect, cfg.reflection_tokens)
        # Advantages: 1 where the second try is right, relative to the other reflections on the same failure.
        right = [float(t.right) for t in tries]
        rewards_QG = torch.tensor(right, dtype=torch.float64).reshape(-1, cfg.group_size)  # (Q, G)
        advantages_QG = group_advantages(rewards_QG, cfg.scale_rewards)
        # Update: the reflection's tokens alone.
        trajectories = [t.trajectory() for t in tries]
        weights = advantages_QG.flatten().tolist()
        arena.updater.backward(trajectories, weights)
        arena.updater.clip(cfg.max_grad_norm)
        update = arena.updater.apply()
        arena.count(trajectories, weights, update)
        # Log.
        lengths = [len(t.reflection.ids) for t in tries if t.reflection]
        metrics = {
            "reward": rewards_QG.mean().item(),
            "reward_std": rewards_QG.std(dim=1).mean().item(),
            "frac_reward_zero_std": (advantages_QG.abs().amax(1) == 0).double().mean().item(),
            "completions/mean_length": sum(lengths) / len(lengths) if lengths else None,
        }
        arena.finish(step, metrics | update)
    run.log("eval.jsonl", second_tries(cfg, arena, cfg.steps))
    arena.close()
    show(run)


if __name__ == "__main__":
    common.launch(main, Config, "reflect_retry")
