"""What all rivals share: the problems of all tasks, the opening of a run, its log, and how first answers are measured.

A rival is one file beside this one. Its `main` reads:

    arena = Arena(cfg, options, "grpo")
    if not arena.ready:                       # a dry run, or a run that is finished already
        return
    for step in arena.steps():
        ...                                   # the method, on arena.problems(step)
        arena.updater.backward(trajectories, advantages)
        arena.updater.clip(cfg.max_grad_norm)
        update = arena.updater.apply()
        arena.count(trajectories, advantages, update)
        arena.finish(step, metrics | update)
    arena.close()
"""

import copy
import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

import common
from common import Options, ReaderNumber, RivalPhase, Shared, UserError, rng
from introspection import models, prompts
from introspection.reader import make_reader
from introspection.rundir import Run
from introspection.sampling import Trajectory
from introspection.training import open_training
from tasks import bank, countdown, finer, function_calling, manufactoria
from tasks.mcq import Question
from tasks.problem import SPLITS, Problem

LOADERS = {
    "mcq": bank.load_questions,
    "countdown": countdown.load,
    "function_calling": function_calling.load,
    "manufactoria": manufactoria.load,
    "finer": finer.load,
}


@dataclass
class Rival(Shared):
    """Settings that every rival has; its own come on top."""

    # what shared.questions holds
    task: Literal["mcq", "countdown", "function_calling", "manufactoria", "finer"] = "mcq"
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
    # what first answers are measured on, separated by commas; a split that the file lacks is left out
    eval_splits: str = "val,canary"
    canary: str = ""  # "task:file" of another task, whose test problems are measured as split canary: what is forgotten
    eval_problems: int = 96  # of each split, at most
    n_eval: int = 4  # answers to each problem
    eval_temperature: float = 1.0  # of these answers

    def check(self) -> None:
        counts = "steps problems_per_step max_new_tokens max_tokens_per_micro_batch save_every eval_problems n_eval"
        self.check_numbers("", counts)
        self.check_numbers("", "temperature lr max_grad_norm", "a number above 0", lambda n: n > 0)
        unknown = [name for name in self.eval_splits.split(",") if name not in SPLITS]
        if unknown:
            raise UserError(f"eval_splits: expected some of {', '.join(SPLITS)}, got '{unknown[0]}'")
        if self.canary and self.canary.split(":")[0] not in LOADERS:
            raise UserError(f"canary: expected task:file with a task of {', '.join(LOADERS)}, got '{self.canary}'")


def load_problems(cfg: Rival) -> list[Problem]:
    """All problems of shared.questions, and of cfg.canary. Raises UserError with file and line for a malformed one."""
    if cfg.cluster and cfg.task != "mcq":
        raise UserError(
            f"shared.cluster: problems of task {cfg.task} have no clusters; expected none, got '{cfg.cluster}'"
        )
    if cfg.task == "mcq":
        loaded = bank.load_questions(cfg.questions, cfg.cluster, cfg.split_by)
    else:
        loaded = LOADERS[cfg.task](common.ROOT / cfg.questions)
    ids = Counter(p.id for p in loaded)
    if len(ids) < len(loaded):
        raise UserError(f"{cfg.questions}: id '{ids.most_common(1)[0][0]}' stands there twice; ids must differ")
    if cfg.canary:
        task, _, file = cfg.canary.partition(":")
        tested = [p for p in LOADERS[task](common.ROOT / file) if p.split == "test"]
        loaded += [replace(p, id=f"canary {p.id}", split="canary") for p in tested]
    return loaded


class Arena:
    """A run of a rival: its problems, policy, updater and logs. `ready` is False after a dry run or a finished one.

    state: what a rival remembers beyond weights, as JSON; checkpoints keep it. once: batches of a run that sees no
    problem twice (0: it may).
    """

    def __init__(
        self,
        cfg: Rival,
        options: Options,
        name: str,
        *,
        reference: bool = False,
        once: int = 0,
        temperature: float | None = None,
    ):
        """reference: whether the start policy is kept though no KL needs it.

        temperature: of training, default that of sampling.
        """
        self.cfg, self.name, self.ready, self.teacher, self.state = cfg, name, False, None, {}
        self.run = Run(options.run_dir, cfg, options.resume)
        # Everything that can be wrong with the input is looked at before any weight is loaded.
        prompts.use(cfg.prompts, common.ROOT)
        problems = load_problems(cfg)
        if cfg.answers == "scored" and not all(isinstance(p, Question) for p in problems):
            raise UserError("shared.answers: only the options of multiple-choice questions can be scored")
        self.train = [p for p in problems if p.split == "train"]
        known = f"{cfg.questions} has {len(self.train)} train problems"
        if len(self.train) < cfg.problems_per_step:
            raise UserError(f"{name}.problems_per_step: {cfg.problems_per_step} asked for, but {known}")
        if getattr(cfg, "reveal", None) == "explanation":  # of SFT, SDPO, Resd
            bank.check_explanations(self.train, f"train problems of {cfg.questions}", name)
        if once * cfg.problems_per_step > len(self.train):
            batches = f"{once} batches of {cfg.problems_per_step}"
            raise UserError(f"{name}.steps: a single pass has no {batches}; {known}")
        draw, self.groups = rng(cfg.seed), {}  # what is measured: problems by split
        for split in cfg.eval_splits.split(","):
            part = [p for p in problems if p.split == split]
            if part:
                self.groups[split] = common.draw_some(part, cfg.eval_problems, draw)
        if not self.groups:
            there = ", ".join(dict.fromkeys(p.split for p in problems))
            raise UserError(
                f"{name}.eval_splits: {cfg.questions} has no problem of '{cfg.eval_splits}', but of {there}"
            )
        self.chat = models.load_chat(cfg.model, cfg.system, cfg.thinking)
        common.check_one_process(name)
        if options.dry_run:
            measured = ", ".join(f"{len(part)} {split}" for split, part in self.groups.items())
            none = ", ".join(split for split in cfg.eval_splits.split(",") if split not in self.groups)
            left_out = f" (no problem is {none})" if none else ""
            print(f"{len(self.train)} train problems; measured on {measured}{left_out}")
            print(f"first prompt:\n{self.train[0].turn}")
            return
        self.run.check()
        if self.run.finished:
            self.summary()
        else:
            self.open(reference, cfg.temperature if temperature is None else temperature)

    def open(self, reference: bool, temperature: float) -> None:
        """Loads weights and the newest checkpoint, and evaluates before the first step."""
        cfg, run = self.cfg, self.run
        self.training = open_training(
            run,
            cfg,
            self.chat,
            lr=cfg.lr,
            temperature=temperature,
            max_tokens=cfg.max_tokens_per_micro_batch,
            kl_coef=cfg.kl_coef,
            keep_start=reference,
        )
        self.policy, self.ref_policy = self.training.policy, self.training.ref_policy
        self.updater, self.done, self.checkpoint = self.training.updater, self.training.done, self.training.checkpoint
        if self.checkpoint and (self.checkpoint / "state.json").exists():
            self.state = json.loads((self.checkpoint / "state.json").read_text())
        logged = run.read("metrics.jsonl")
        last = logged[-1] if logged else {"generated_tokens": 0, "trained_tokens": 0, "skipped_steps": 0}
        self.generated, self.trained, self.skipped = (
            last["generated_tokens"],
            last["trained_tokens"],
            last["skipped_steps"],
        )
        key = (cfg.seed, 0, ReaderNumber.RIVAL)
        self.reader = make_reader(cfg, self.policy, self.chat, key)
        self.ready = True
        print(f"{cfg.model}: {len(self.train)} train problems, run in {run.path}")
        if self.done == 0:
            run.log("eval.jsonl", self.evaluate(0))

    def steps(self):
        """The numbers of the steps that are left; sets `reader`, whose noise and count of tokens are the step's own."""
        steps, total = range(self.done + 1, self.cfg.steps + 1), self.cfg.steps
        self.bar = tqdm(steps, initial=self.done, total=total, desc=self.name, dynamic_ncols=True, disable=None)
        for step in self.bar:
            key = (self.cfg.seed, step, ReaderNumber.RIVAL)
            self.reader, self.began = replace(self.reader, key=key, generated=0), time.perf_counter()
            yield step

    def problems(self, step: int) -> list[Problem]:
        """The next problems of an endless walk, shuffled anew every epoch, options in a new order."""
        n, seed = self.cfg.problems_per_step, self.cfg.seed
        chosen = common.walk(self.train, step, n, seed, RivalPhase.ORDER)
        return [p.view(rng(seed, RivalPhase.ORDER, 1, (step - 1) * n + i)) for i, p in enumerate(chosen)]

    def count(self, trajectories: list[Trajectory], weights: list, update: dict) -> None:
        """Adds what an optimiser step trained, or that it was skipped, to the run's counts."""
        self.trained += tokens_trained(trajectories, weights, update)
        self.skipped += update["skipped_steps"]

    def finish(self, step: int, metrics: dict) -> None:
        """Logs a step, evaluates and saves where it is time to."""
        cfg, run = self.cfg, self.run
        self.generated += self.reader.generated
        counts = {
            "generated_tokens": self.generated,
            "trained_tokens": self.trained,
            "skipped_steps": self.skipped,
            "time/step": time.perf_counter() - self.began,
        }
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
        self.training.write_checkpoint(folder)
        if self.state:
            (folder / "state.json").write_text(json.dumps(self.state))
        if self.teacher is not None:
            averaged = {name: parameter.contiguous() for name, parameter in self.averaged.items()}
            save_file(averaged, folder / "teacher.safetensors")

    def keep_average(self) -> None:
        """Sets `teacher`, a moving average of the policy, as the checkpoint has it.

        It is fp32 where the policy's masters are: an average in bf16 would not move.
        """
        self.teacher = copy.deepcopy(self.policy).requires_grad_(False)
        pairs = zip(self.updater.masters, self.updater.parameters, strict=True)
        if any(master is not parameter for master, parameter in pairs):
            self.teacher = self.teacher.float()
        trained = {name for name, parameter in self.policy.named_parameters() if parameter.requires_grad}
        self.averaged = {name: parameter for name, parameter in self.teacher.named_parameters() if name in trained}
        if self.checkpoint:
            for name, value in load_file(self.checkpoint / "teacher.safetensors").items():
                self.averaged[name].copy_(value)

    def follow(self, rate: float) -> None:
        """teacher <- (1 - rate) teacher + rate policy (its fp32 masters, in the same order)."""
        for average, master in zip(self.averaged.values(), self.updater.masters, strict=True):
            average.lerp_(master.detach(), rate)

    def close(self) -> None:
        self.training.save_final()
        self.summary()

    def evaluate(self, step: int) -> dict:
        """Accuracy of first answers by split, and of each problem; the same noise at every step."""
        cfg = self.cfg
        key, n = (cfg.seed, 0, ReaderNumber.RIVAL_EVALUATION), cfg.n_eval
        reader = replace(self.reader, key=key, temperature=cfg.eval_temperature)
        each, accuracy = {}, {}
        for k, (split, problems) in enumerate(self.groups.items()):
            prompt_ids, numbers = [self.chat.first(p.turn) for p in problems], [(k, i) for i in range(len(problems))]
            said = reader.answer(prompt_ids, problems, RivalPhase.EVALUATE, n, numbers=numbers)
            right = [problems[i // n].grade(self.chat.text(c.ids)) for i, c in enumerate(said)]
            each[split] = {p.id: sum(right[i * n : (i + 1) * n]) / n for i, p in enumerate(problems)}
            accuracy[split] = sum(each[split].values()) / len(each[split])
        return {"step": step, "accuracy": accuracy, "each": each}

    def summary(self) -> None:
        """Before and after, from the files of a finished run."""
        evaluations = [r for r in self.run.read("eval.jsonl") if "accuracy" in r]
        last = self.run.read("metrics.jsonl")[-1]
        print(f"\n== {self.name} finished ==\n\n{line_of(evaluations[0])}\n{line_of(evaluations[-1])}")
        tokens = f"{last['generated_tokens']:,} tokens generated, {last['trained_tokens']:,} trained"
        print(f"{tokens}. Everything is in {self.run.path}")


def tokens_trained(trajectories: list[Trajectory], weights: list, update: dict) -> int:
    """Tokens that an update trained: none of a skipped one, and none of a trajectory without weight.

    weights: a number for each trajectory, or a tensor (T,) with one for each of its trained tokens.
    """
    if update["skipped_steps"]:
        return 0
    return sum(sum(t.loss_mask) for t, w in zip(trajectories, weights, strict=True) if torch.as_tensor(w).any())


def line_of(record: dict) -> str:
    accuracies = ", ".join(f"{split} {value:.3f}" for split, value in record["accuracy"].items())
    return f"   first answers at step {record['step']}: {accuracies}"
