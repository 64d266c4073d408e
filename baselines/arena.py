"""What all rivals share: the problems of all tasks, the opening of a run, its log, and how first answers are measured.

A rival is one file beside this one. Its `main` reads:

    arena = Arena(cfg, run, "grpo")
    for step in arena.steps():
        ...                                   # the method
        arena.finish(step, metrics, trained)
    arena.close()
"""

import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file, save_file
from tqdm import tqdm

import common
import models
import prompts
import ranks
from chat import Chat
from common import Run, Shared, UserError, rng
from measure import Reader, same_views
from rollout import Trajectory
from tasks import countdown, finer, function_calling, manufactoria, mcq
from tasks.countdown import Countdown
from tasks.finer import Finer
from tasks.function_calling import Calling
from tasks.manufactoria import Manufactoria
from tasks.mcq import SPLITS, Question
from update import Updater

LOADERS = {
    "mcq": mcq.load_questions, "countdown": countdown.load, "function_calling": function_calling.load,
    "manufactoria": manufactoria.load, "finer": finer.load,
}  # fmt: skip
ORDER, EVALUATE = 50, 51  # phases, part of every noise key; a rival's own start at 60


@dataclass
class Rival(Shared):
    """Settings that every rival has; its own come on top."""

    task: Literal["mcq", "countdown", "function_calling", "manufactoria", "finer"] = "mcq"  # what shared.questions holds
    steps: int = 60  # optimiser steps
    problems_per_step: int = 8  # problems of one step
    lr: float = 2e-4  # AdamW
    max_grad_norm: float = 1.0  # gradient clipping
    kl_coef: float = 0.0  # weight of the k3 KL to the start policy in the loss, over answers with an advantage; 0: none
    temperature: float = 1.0  # of sampling in training
    max_new_tokens: int = 48  # longest answer, tokens
    max_tokens_per_micro_batch: int = 16384  # padded tokens of one forward and backward
    save_every: int = 20  # steps between checkpoints
    eval_every: int = 0  # steps between evaluations, 0: only before and after
    eval_splits: str = "val,canary"  # what first answers are measured on, separated by commas; a split that the file lacks is left out
    canary: str = ""  # "task:file" of another task, whose test problems are measured as split canary: what is forgotten
    eval_problems: int = 96  # of each split, at most
    n_eval: int = 4  # answers to each problem
    eval_temperature: float = 1.0  # of these answers

    def check(self) -> None:
        for name in ("steps", "problems_per_step", "max_new_tokens", "save_every", "eval_problems", "n_eval"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("temperature", "lr", "max_grad_norm"):
            if getattr(self, name) == 0:
                raise UserError(f"{name}: expected a number above 0")
        unknown = [name for name in self.eval_splits.split(",") if name not in SPLITS]
        if unknown:
            raise UserError(f"eval_splits: expected some of {', '.join(SPLITS)}, got '{unknown[0]}'")
        if self.canary and self.canary.split(":")[0] not in LOADERS:
            raise UserError(f"canary: expected task:file with a task of {', '.join(LOADERS)}, got '{self.canary}'")


@dataclass(frozen=True)
class Problem:
    """A problem of any task: what is asked, what is right, and a right answer in the task's own words."""

    source: Question | Countdown | Calling | Manufactoria | Finer

    @property
    def id(self) -> str:
        return self.source.id

    @property
    def split(self) -> str:
        return self.source.split

    @property
    def turn(self) -> str:
        s = self.source
        return prompts.question_turn(s.question, list(s.options)) if isinstance(s, Question) else s.turn

    @property
    def gold(self) -> str | None:
        """A right answer; None for a problem without solution."""
        s = self.source
        if isinstance(s, Question):
            return f"Answer: {s.options[s.answer]} ({s.letter})"
        if isinstance(s, Countdown):
            found = countdown.solve(s.nums, s.target)
            return f"<answer>{found}</answer>" if found else None
        return s.gold

    def feedback(self, reveal: str, said: str = "", solution: str | None = None) -> str | None:
        """What a teacher reads after the problem: feedback on a wrong answer `said`, and a solution; None where there is nothing.

        reveal: nothing | answer | explanation (where the problem has one). Manufactoria and FiNER have feedback of their own.
        """
        s = self.source
        if isinstance(s, Question):  # a right peer names the right answer too, so naming it beside reveals nothing more
            if reveal == "nothing" and solution is None:
                return None
            told = prompts.told(s.explanation if reveal == "explanation" else None, solution)
            return prompts.FEEDBACK.format(answer=prompts.plain(s.options[s.answer]), letter=s.letter, told=told)
        text = ""
        if isinstance(s, Manufactoria | Finer) and reveal != "nothing":
            found = prompts.plain((manufactoria if isinstance(s, Manufactoria) else finer).feedback(said, s))
            text = found and f"\n{found}"
        elif reveal != "nothing" and self.gold is not None:
            text = prompts.GOLD.format(gold=prompts.plain(self.gold))
        text += prompts.told(None, solution)
        return prompts.FEEDBACK_ELSE.format(told=text) if text else None

    def grade(self, text: str) -> bool:
        s = self.source
        if isinstance(s, Question):
            return mcq.grade(text, s)
        if isinstance(s, Countdown):
            return countdown.grade(text, s)
        if isinstance(s, Calling):
            return function_calling.grade(text, s)
        return manufactoria.grade(text, s) if isinstance(s, Manufactoria) else finer.grade(text, s)

    def view(self, draw) -> "Problem":
        """The same problem, its options in a new order where it has any: no letter can be learned by heart."""
        return Problem(same_views(self.source, 1, draw)[0]) if isinstance(self.source, Question) else self


def load_problems(cfg: Rival) -> list[Problem]:
    """All problems of shared.questions, and of cfg.canary. Raises UserError with file and line for a malformed one."""
    path = common.ROOT / cfg.questions
    if cfg.cluster and cfg.task != "mcq":
        raise UserError(f"shared.cluster: problems of task {cfg.task} have no clusters; expected none, got '{cfg.cluster}'")
    loaded = mcq.load_questions(path, cfg.cluster) if cfg.task == "mcq" else LOADERS[cfg.task](path)
    if cfg.canary:
        task, _, file = cfg.canary.partition(":")
        loaded += [replace(p, id=f"canary {p.id}", split="canary") for p in LOADERS[task](common.ROOT / file) if p.split == "test"]
    return [Problem(p) for p in loaded]


class Arena:
    """A run of a rival: its problems, policy, updater and logs. `ready` is False after a dry run or a finished one.

    state: what a rival remembers beyond weights, as JSON; checkpoints keep it. once: batches of a run that sees no problem twice (0: it may).
    """

    def __init__(self, cfg: Rival, run: Run, name: str, dry_run: bool, reference: bool = False, once: int = 0):
        self.cfg, self.run, self.name, self.ready, self.teacher, self.state = cfg, run, name, False, None, {}
        problems = load_problems(cfg)
        self.train = [p for p in problems if p.split == "train"]
        if len(self.train) < cfg.problems_per_step:
            raise UserError(f"{name}.problems_per_step: {cfg.problems_per_step} asked for, but {cfg.questions} has {len(self.train)} train problems")
        if once * cfg.problems_per_step > len(self.train):
            raise UserError(
                f"{name}.steps: a single pass has no {once} batches of {cfg.problems_per_step}; {cfg.questions} has {len(self.train)} train problems"
            )
        draw, self.groups = rng(cfg.seed), {}
        for split in cfg.eval_splits.split(","):
            part = [p for p in problems if p.split == split]
            if part:
                self.groups[split] = [part[i] for i in sorted(draw.permutation(len(part))[: cfg.eval_problems])]
        if not self.groups:
            raise UserError(f"{name}.eval_splits: {cfg.questions} has no problem of '{cfg.eval_splits}'")
        self.tokenizer = models.load_tokenizer(cfg.model)
        self.chat = Chat(self.tokenizer, models.eos_ids(cfg.model, self.tokenizer), cfg.system)
        if ranks.world() > 1:
            raise UserError(f"{name} runs in one process; start it with python, not torchrun")
        if dry_run:
            print(f"{len(self.train)} train problems; measured on " + ", ".join(f"{len(part)} {split}" for split, part in self.groups.items()))
            print(f"first prompt:\n{self.train[0].turn}")
            return
        run.check()
        if run.resume and run.final.exists():
            self.summary()
        else:
            self.open(reference or cfg.kl_coef > 0)

    def open(self, reference: bool) -> None:
        """Loads weights and the newest checkpoint, and evaluates before the first step. reference: whether the start policy is kept."""
        cfg, run = self.cfg, self.run
        self.policy = models.load_policy(cfg.model, cfg)
        self.ref_policy = models.load_policy(cfg.model, cfg).requires_grad_(False) if reference else None
        self.policy = models.make_trainable(self.policy, cfg)
        run.open()
        self.updater = Updater(self.policy, "adamw", cfg.lr, cfg.max_grad_norm, cfg.temperature, cfg.max_tokens_per_micro_batch, cfg.kl_coef, self.ref_policy)
        self.done, self.checkpoint = run.rewind()
        if self.checkpoint:
            models.restore(self.policy, self.updater, self.checkpoint)
            if (self.checkpoint / "state.json").exists():
                self.state = json.loads((self.checkpoint / "state.json").read_text())
        before = run.read("metrics.jsonl")
        self.generated, self.trained, self.skipped = (before[-1][name] if before else 0 for name in ("generated_tokens", "trained_tokens", "skipped_steps"))
        self.reader = Reader(self.policy, self.chat, cfg.temperature, cfg.max_new_tokens, (cfg.seed, 0, 5))
        self.ready = True
        print(f"{cfg.model}: {len(self.train)} train problems, run in {run.path}")
        if self.done == 0:
            run.log("eval.jsonl", self.evaluate(0))

    def steps(self):
        """The numbers of the steps that are left; sets `reader`, whose noise and count of tokens are the step's own."""
        self.bar = tqdm(range(self.done + 1, self.cfg.steps + 1), initial=self.done, total=self.cfg.steps, desc=self.name, dynamic_ncols=True, disable=None)
        for step in self.bar:
            self.reader, self.began = replace(self.reader, key=(self.cfg.seed, step, 5), generated=0), time.perf_counter()
            yield step

    def problems(self, step: int) -> list[Problem]:
        """The next problems of an endless walk, shuffled anew every epoch, options in a new order."""
        n, chosen = self.cfg.problems_per_step, []
        for place in range((step - 1) * n, step * n):
            order = rng(self.cfg.seed, ORDER, place // len(self.train)).permutation(len(self.train))
            chosen.append(self.train[order[place % len(self.train)]].view(rng(self.cfg.seed, ORDER, 1, place)))
        return chosen

    def finish(self, step: int, metrics: dict, trained: int) -> None:
        """Logs a step, evaluates and saves where it is time to. trained: tokens of the step's loss (in_loss)."""
        cfg, run = self.cfg, self.run
        self.generated, self.trained = self.generated + self.reader.generated, self.trained + trained
        self.skipped += metrics["skipped_steps"]
        seconds = time.perf_counter() - self.began
        counts = {"generated_tokens": self.generated, "trained_tokens": self.trained, "skipped_steps": self.skipped, "time/step": seconds}
        run.log("metrics.jsonl", {"step": step} | metrics | counts)
        self.bar.set_postfix_str(f"reward {metrics['reward']:.2f}" if "reward" in metrics else "")
        if step == cfg.steps or (cfg.eval_every and step % cfg.eval_every == 0):
            record = self.evaluate(step)
            run.log("eval.jsonl", record)
            self.bar.write(line_of(record))
        if step == cfg.steps or step % cfg.save_every == 0 or run.stopped_by:
            run.save(f"checkpoint-{step}", self.write)
        if run.stopped_by:
            self.bar.close()
            run.leave()

    def write(self, folder: Path) -> None:
        models.write_checkpoint(self.policy, self.updater, folder)
        if self.state:
            (folder / "state.json").write_text(json.dumps(self.state))
        if self.teacher is not None:
            save_file({name: parameter.contiguous() for name, parameter in self.averaged.items()}, folder / "teacher.safetensors")

    def keep_average(self) -> None:
        """Sets `teacher`, a moving average of the policy, as the checkpoint has it; in fp32 where the policy's masters are (bf16 would not move)."""
        self.teacher = copy.deepcopy(self.policy).requires_grad_(False)
        if any(master is not parameter for master, parameter in zip(self.updater.masters, self.updater.parameters, strict=True)):
            self.teacher = self.teacher.float()
        trained = {name for name, parameter in self.policy.named_parameters() if parameter.requires_grad}
        self.averaged = {name: parameter for name, parameter in self.teacher.named_parameters() if name in trained}
        if self.checkpoint:
            for name, value in load_file(self.checkpoint / "teacher.safetensors").items():
                self.averaged[name].copy_(value)

    def follow(self, rate: float) -> None:
        """teacher <- (1 - rate) teacher + rate policy (its fp32 masters)."""
        for average, master in zip(self.averaged.values(), self.updater.masters, strict=True):
            average.lerp_(master.detach(), rate)

    def close(self) -> None:
        self.run.save("final", lambda folder: models.save(self.policy, self.tokenizer, folder))
        self.summary()

    def evaluate(self, step: int) -> dict:
        """Accuracy of first answers by split, and of each problem; the same noise at every step."""
        cfg = self.cfg
        reader = replace(self.reader, key=(cfg.seed, 0, 6), temperature=cfg.eval_temperature)
        each = {}
        for k, (split, problems) in enumerate(self.groups.items()):
            said = reader.sample([self.chat.first(p.turn) for p in problems], EVALUATE, cfg.n_eval, numbers=[(k, i) for i in range(len(problems))])
            right = [problems[i // cfg.n_eval].grade(self.chat.text(c.ids)) for i, c in enumerate(said)]
            each[split] = {p.id: sum(right[i * cfg.n_eval : (i + 1) * cfg.n_eval]) / cfg.n_eval for i, p in enumerate(problems)}
        return {"step": step, "accuracy": {split: sum(part.values()) / len(part) for split, part in each.items()}, "each": each}

    def summary(self) -> None:
        """Before and after, from the files of a finished run."""
        evaluations, last = [r for r in self.run.read("eval.jsonl") if "accuracy" in r], self.run.read("metrics.jsonl")[-1]
        print(f"\n== {self.name} finished ==\n\n{line_of(evaluations[0])}\n{line_of(evaluations[-1])}")
        print(f"{last['generated_tokens']:,} tokens generated, {last['trained_tokens']:,} trained. Everything is in {self.run.path}")


def in_loss(trajectories: list[Trajectory], weights: list[float], update: dict) -> int:
    """Tokens that an update trained: none of a skipped one, and none of a trajectory without weight."""
    return sum(sum(t.loss_mask) for t, w in zip(trajectories, weights, strict=True) if w) * (not update["skipped_steps"])


def line_of(record: dict) -> str:
    return f"   first answers at step {record['step']}: " + ", ".join(f"{split} {value:.3f}" for split, value in record["accuracy"].items())
