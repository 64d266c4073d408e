"""Stage 1: reinforcement learning for writing learning points (paper, 'GRPO Training Procedure').

One step, all sampling under no_grad (the sampler sees to it wherever it is called, the step loop shows it):
  1. rollout 1: G attempts on each of Q questions; winners and losers
  2. rollout 2: the same conversation goes on; winners say what they got right, losers see the right answer and say what
     they were missing; each writes one <introspection> block, its learning point
  3. rollout 3: each point is put into a new conversation, after the question, and the answers are graded
  4. advantage: how much better a point does than its group (or than no point at all), clipped at zero
  5. policy gradient over the tokens that `mask` names: by default the learning point's turn
Defaults other than '(paper: ...)' are ours; docs/method.md lists the departures. Cause N: of the paper's six
causes of collapse. View: a question as rollout 3 asks it, options reshuffled. Fresh: the reader without a point on the
same views. Twins: a question's counterfactual variants, which tell leaks from rules.

Inputs:  a question bank (JSONL), a causal language model with a chat template
Outputs: runs/<config>/grpo_introspect/ with metrics, every learning point, the library of validated points, weights
Run:     python grpo_introspect.py --config configs/preeclampsia.yaml
Dimension suffixes: _Q question, _G point of a group, _V view.
"""

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from tqdm import tqdm

import common
from common import Options, ReaderNumber, Shared, UserError, rng
from introspection import detectors, library, models, prompts, screen
from introspection.chat import Chat
from introspection.evaluation import canary_of, evaluate
from introspection.losses import ROUNDING, centred_advantages, policy_gradient, standard_errors
from introspection.metrics import step_metrics
from introspection.preflight import check_bank, preflight
from introspection.reader import Reader, make_reader
from introspection.rollouts import Group, Point, rollout_1, rollout_2, rollout_3
from introspection.rundir import Run
from introspection.sampling import Trajectory
from introspection.stats import mean
from introspection.training import open_training
from tasks.bank import check_explanations, draw_in_company, in_company, load_exchanges, load_questions
from tasks.mcq import Question

MAY_BE_CANARY = 48  # questions that are asked where a bank names no canary


@dataclass
class Config(Shared):
    steps: int = 60  # optimiser steps (paper: 23 and 25)
    questions_per_step: int = 8  # Q, questions of one step (paper: value lost)
    group_size: int = 16  # G, attempts on each question (paper: 32 rollouts a step in all)
    contributors: Literal["both", "winners", "losers"] = "both"  # who writes points: the group (paper: both)
    # what losers see: letter and text (paper), the explanation too, a winner's attempt too
    reveal: Literal["answer", "explanation", "peer"] = "answer"
    # optional: an empty block is a decision not to write (paper: when to introspect)
    introspect: Literal["prompted", "optional"] = "prompted"
    # taken off a point's score for each token of its turn; an empty block is free (paper: value lost)
    token_price: float = 0.0
    # how often a wrong attempt is sent back with 'try again' first (paper: 1 to 4 led to meta-gaming)
    correction_turns: int = 0
    exchanges: str = ""  # JSONL of collected conversations that take the place of rollout 1
    # same: the point's own question (paper); transfer: others of its cluster
    verify_on: Literal["same", "transfer", "both"] = "transfer"
    # where transfer questions come from (bank: emergent structure)
    transfer_pool: Literal["cluster", "bank"] = "cluster"
    n_verify: int = 4  # V, verification views of a point, of each kind (paper: 1; ours: 4, one for each letter)
    transfer_weight: float = 1.0  # weight of transfer against same where verify_on is both (paper: lost)
    n_fresh: int = 4  # answers without a point on each view, for the baseline and the introspection advantage
    # sampled: accuracy (paper); prob: p(right option); log_ratio: log p with the point - log p without (SDPO's Eq. 1);
    # invariance: - KL(answer given the point || answer given the exchange)
    reward: Literal["sampled", "prob", "log_ratio", "invariance"] = "sampled"  # what a point is scored by
    baseline: Literal["group_mean", "fresh"] = "group_mean"  # what a point must beat: its group (paper), or no point
    # zero: max(A, 0) (paper); lcb: max(A - lcb_z SE, 0); none: signed (collapse cause 2); positive: 1 where A > 0
    clip: Literal["zero", "lcb", "none", "positive"] = "zero"  # how an advantage becomes a training weight
    lcb_z: float = 1.0  # standard errors taken off by clip: lcb
    # trained tokens (paper: conversation)
    mask: Literal["conversation", "learning_point", "conversation+verification"] = "learning_point"
    train_loser_attempt: bool = False  # whether a loser's wrong attempt is trained when its point helped (paper: yes)
    optimizer: Literal["adamw", "sgd"] = "adamw"  # paper: SGD without momentum
    lr: float = 2e-4  # learning rate (paper: value lost)
    max_grad_norm: float = 1.0  # gradient clipping (collapse cause 3; paper: value lost)
    kl_coef: float = 0.02  # weight of the k3 KL to the start policy, 0: none (paper: none)
    temperature: float = 1.0  # of all sampling and of the training log-probabilities
    max_new_tokens: int = 48  # longest attempt, tokens
    max_point_tokens: int = 64  # longest learning point turn, tokens
    max_tokens_per_micro_batch: int = 16384  # padded tokens of one forward and backward
    save_every: int = 10  # steps between checkpoints
    eval_every: int = 20  # steps between evaluations on eval_split, 0: only before and after
    eval_split: Literal["val", "test"] = "val"  # questions of the evaluations before and after
    eval_questions: int = 48  # questions of an evaluation, at most
    preflight: bool = True  # whether a few questions are asked before the first step, and what cannot work ends the run
    log_verifications: bool = False  # whether rollouts.jsonl keeps the answers of rollout 3
    show_every: int = 5  # steps between three sample points on the screen, 0: never
    expect: str = ""  # one sentence for the closing summary: the outcome to expect of this config

    def check(self) -> None:
        """Raises UserError for values that are each legal but impossible together."""
        counts = "steps questions_per_step group_size n_verify n_fresh max_new_tokens max_point_tokens save_every"
        self.check_numbers("grpo_introspect", f"{counts} max_tokens_per_micro_batch")
        least = 1 if self.verify_on == "same" else 2  # a point is read on another question
        self.check_numbers("grpo_introspect", "eval_questions", f"at least {least}", lambda n: n >= least)
        self.check_numbers("grpo_introspect", "temperature lr max_grad_norm", "a number above 0", lambda n: n > 0)
        if self.group_size == 1 and self.baseline == "group_mean":
            raise UserError(
                "grpo_introspect.group_size: a group of 1 has no spread around its mean; "
                "use baseline: fresh or a larger group"
            )
        if self.reward == "invariance" and (self.baseline == "fresh" or self.introspect == "optional"):
            raise UserError(
                "grpo_introspect.reward: invariance compares points with each other; "
                "expected baseline: group_mean, introspect: prompted"
            )
        if self.reward == "invariance" and self.answers == "scored":
            raise UserError("grpo_introspect.reward: invariance compares sampled answers; expected answers: sampled")
        if self.reward in ("log_ratio", "invariance") and self.clip == "lcb":
            known = "lcb knows the noise of scores between 0 and 1"
            raise UserError(f"grpo_introspect.clip: {known}, not of reward: {self.reward}")
        if self.exchanges and (self.correction_turns or self.mask != "learning_point"):
            raise UserError(
                "grpo_introspect.exchanges: collected attempts can be neither corrected nor trained; "
                "use correction_turns: 0, mask: learning_point"
            )


# ---- score, advantage, training batch ------------------------------------------------------------------------------
def view_weights(cfg: Config, group: Group) -> torch.Tensor:
    """Weights (V,) of the views in a point's score, summing to 1; twins only tell leaks from rules."""
    weight = {"same": 1.0, "transfer": cfg.transfer_weight if cfg.verify_on == "both" else 1.0, "twin": 0.0}
    weights = torch.tensor([weight[kind] for kind in group.kinds_V], dtype=torch.float64)
    return weights / weights.sum()


def rewards_of(group: Group) -> torch.Tensor:
    """Rewards (G, V) of a group's points; 0 where a view was not measured."""
    rewards = [point.rewards_V for point in group.points] or [torch.empty(0, len(group.views_V))]
    return torch.vstack(rewards).double().nan_to_num(0.0)


def scores_of(cfg: Config, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores (G,), valid (G,) bool) of a group's points: weighted mean rewards, less the price of their tokens.

    A point that did not parse or that leaks the answer is not valid: it is no part of the comparison and earns nothing.
    """
    tokens = torch.tensor([len(point.completion.ids) if point.text else 0 for point in group.points])
    scores = rewards_of(group) @ view_weights(cfg, group) - cfg.token_price * tokens
    return scores, torch.tensor([point.valid for point in group.points], dtype=torch.bool)


def fresh_score(cfg: Config, group: Group) -> float:
    """What the reader without a point scores on the group's views."""
    return (group.fresh_rewards_V * view_weights(cfg, group)).sum().item()


def fresh_advantages(scores: torch.Tensor, valid: torch.Tensor, baseline: float) -> torch.Tensor:
    """A_j = s_j - score without a point on the same questions (paper, 'Training Stability', cause 4: a fresh baseline).

    Unlike the group mean it keeps the best case, a group whose points all help.
    """
    advantages = torch.where(valid, scores - baseline, 0.0)
    return torch.where(advantages.abs() < ROUNDING, 0.0, advantages)


def clip_otherwise(cfg: Config, advantages: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """What stands beside the paper's max(A, 0) as training weights (G,).

    lcb: max(A - z SE, 0), so that luck alone earns nothing; none: A as it is (collapse cause 2); positive: 1 where A >
    0, which makes the policy gradient supervised fine-tuning on the points that helped (a null).
    """
    if cfg.clip == "lcb":
        return (advantages - cfg.lcb_z * errors).clamp(min=0)
    if cfg.clip == "positive":
        return (advantages > 0).to(advantages.dtype)
    return advantages


def training_batch(cfg: Config, groups: list[Group]) -> tuple[list[Trajectory], list[float]]:
    """What the policy gradient sees: each point's conversation, and with `+verification` the answers that it led to."""
    trajectories, advantages = [], []
    for point in (point for group in groups for point in group.points):
        # Departure from paper: where attempts are trained, a loser's wrong one is not, unless train_loser_attempt.
        train_attempt = cfg.mask != "learning_point" and (point.won or cfg.train_loser_attempt)
        train_errors = cfg.mask != "learning_point" and cfg.train_loser_attempt
        trajectories.append(point.trajectory(train_attempt, train_errors))
        advantages.append(point.advantage)
    if cfg.mask == "conversation+verification":
        for group in groups:
            answers, weights = verification_batch(cfg, group)
            trajectories, advantages = trajectories + answers, advantages + weights
    return trajectories, advantages


def verification_batch(cfg: Config, group: Group) -> tuple[list[Trajectory], list[float]]:
    """The answers of rollout 3, each weighed by its own reward against its view's mean; 0 after points not valid."""
    rewards = rewards_of(group)  # (G, V)
    valid = torch.tensor([point.valid for point in group.points], dtype=torch.bool)
    trajectories, advantages = [], []
    for i, point in enumerate(group.points):
        for answer in point.verifications:
            v = answer.view
            advantage = (rewards[i, v] - rewards[valid, v].mean()).item() if point.valid else 0.0
            trajectories.append(answer.trajectory)
            advantages.append(advantage if cfg.clip == "none" else max(advantage, 0.0))
    return trajectories, advantages


# ---- what is written down ------------------------------------------------------------------------------------------
def point_record(cfg: Config, step: int, group: Group, point: Point, number: int) -> dict:
    """A library record (docs/reference.md, 'Records'); rollouts.jsonl adds the conversation and the training weight."""
    on: dict[str, list[tuple[float, float]]] = {}
    for v, view in enumerate(group.views_V):
        if group.kinds_V[v] != "twin" and not point.accuracies_V[v].isnan():
            on.setdefault(view.id, []).append((point.accuracies_V[v].item(), group.fresh_accuracies_V[v].item()))
    verified = []
    for name, pairs in on.items():
        told, fresh = (mean(values) for values in zip(*pairs, strict=True))
        verified.append({"question_id": name, "n": len(pairs), "acc_with": told, "acc_without": fresh})
    record = {
        "id": f"{step}-{number}",
        "text": point.text,
        "question_id": group.question.id,
        "exchange_id": group.exchange_id,
        "cluster": group.question.cluster,
        "source": "winner" if point.won else "loser",
        "step": step,
        "writer": f"{cfg.model}@{step - 1}",
        "reader": f"{cfg.model}@{step - 1}",
        "verified_on": verified,
        "advantage_same": group.gain(point, "same"),
        "advantage_transfer": group.gain(point, "transfer"),
        "ci95": None,
        "leak": point.leak,
        "meta_gaming": point.text is not None and detectors.is_meta_gaming(point.text),
        "count": 1,
    }
    record["ci95"] = library.interval(record) if verified else None
    return record


def log_points(cfg: Config, run: Run, chat: Chat, step: int, groups: list[Group]) -> list[dict]:
    """Writes a step's points to rollouts.jsonl, the validated ones to library.jsonl; the records of the former."""
    records = []
    for group in groups:
        for point in group.points:
            record = point_record(cfg, step, group, point, len(records))
            said = {"completion": chat.text(point.completion.ids), "attempt": chat.text(point.attempt.completion.ids)}
            if cfg.log_verifications:
                said["verifications"] = [
                    {"options": list(group.views_V[a.view].options), "said": chat.text(a.completion.ids)}
                    for a in point.verifications
                ]
            records.append(record | {"advantage": point.advantage, "gain_twin": group.gain(point, "twin")} | said)
            run.log("rollouts.jsonl", records[-1])
            if point.text and point.valid and point.advantage > 0 and library.gain(record) > 0:
                run.log("library.jsonl", record)
    return records


def evaluate_now(cfg: Config, reader: Reader, data: tuple, step: int) -> dict:
    """The points that the policy writes now, on questions whose points are never rewarded; data: from `load_data`."""
    train, held_out, canary = data
    reader = replace(reader, key=(cfg.seed, 0, ReaderNumber.EVALUATION))
    asked = {"reveal": cfg.reveal, "introspect": cfg.introspect, "max_point_tokens": cfg.max_point_tokens}
    asked["verify_on"] = cfg.verify_on
    return evaluate(reader, held_out, canary, {q.cluster for q in train}, step=step, **asked)


# ---- main ----------------------------------------------------------------------------------------------------------
def load_data(cfg: Config) -> tuple[list[Question], list[Question], list[Question]]:
    """(train, eval, canary) questions. Raises UserError where a step or an evaluation could not be drawn from them."""
    questions = load_questions(cfg.questions, cfg.cluster, cfg.split_by)
    train = [q for q in questions if q.split == "train"]
    if cfg.verify_on != "same" and cfg.transfer_pool == "cluster":
        paired = in_company(train)
        if len(paired) < len(train):
            alone = f"are alone in their cluster and left out (verify_on: {cfg.verify_on})"
            print(f"{cfg.questions}: {len(train) - len(paired)} train questions {alone}", file=sys.stderr)
        train = paired
    if train and cfg.reveal == "explanation":
        check_explanations(train, f"train questions of {cfg.questions}", "grpo_introspect")
    if len(train) < cfg.questions_per_step:
        known = f"{cfg.questions} has {len(train)} train questions"
        raise UserError(f"grpo_introspect.questions_per_step: {cfg.questions_per_step} asked for, but {known}")
    held_out = [q for q in questions if q.split == cfg.eval_split]
    if cfg.verify_on == "same":
        chosen = common.draw_some(held_out, cfg.eval_questions, rng(cfg.seed))
    else:
        chosen = draw_in_company(in_company(held_out), cfg.eval_questions, rng(cfg.seed))
    if not chosen:
        wanted = "" if cfg.verify_on == "same" else "two of one cluster among the "
        nowhere = f"there are not {wanted}{cfg.eval_split} questions of {cfg.questions}"
        raise UserError(f"grpo_introspect.eval_questions: {nowhere}")
    # A bank that names no canary lends questions that the start model is asked first (introspection/evaluation.py).
    asked, drawn = {q.id for q in chosen}, [q for q in questions if q.split == "canary"]
    spare = [q for q in questions if q.split in ("val", "test") and q.id not in asked]
    return train, chosen, drawn or common.draw_some(spare, MAY_BE_CANARY, rng(cfg.seed, 1))


@contextmanager
def phase(bar: tqdm, clock: dict[str, float], name: str):
    """Shows a phase of the step in the bar and adds its seconds to `clock`."""
    bar.set_postfix_str(name)
    start = time.perf_counter()
    with common.busy(f"{name} of a step"):
        yield
    clock[f"time/{name}"] = time.perf_counter() - start


def main(cfg: Config, options: Options) -> None:
    # Everything that can be wrong with the input is looked at before any weight is loaded.
    prompts.use(cfg.prompts, common.ROOT)
    train, held_out, canary = load_data(cfg)
    exchanges = load_exchanges(common.ROOT / cfg.exchanges, train) if cfg.exchanges else []
    chat = models.load_chat(cfg.model, cfg.system, cfg.thinking)
    check_bank(cfg, chat, train)
    if options.dry_run:
        print(screen.plan(cfg, chat, train, held_out))
        return
    run = Run(options.run_dir, cfg, options.resume)
    if not options.preflight:
        run.check()
        if run.finished:
            print(screen.summary(run))
            return
    # The start model is tried before anything is written: whoever is told to change a setting starts again just there.
    if options.preflight or (cfg.preflight and not options.resume):
        start = models.load_policy(cfg.model, cfg)
        preflight(cfg, make_reader(cfg, start, chat, (cfg.seed, 0, ReaderNumber.PREFLIGHT)), train)
        del start
    if options.preflight:
        return

    # The policy, the start policy for the KL, the optimiser, and the newest checkpoint of a run that was stopped.
    training = open_training(
        run, cfg, chat, lr=cfg.lr, temperature=cfg.temperature, max_tokens=cfg.max_tokens_per_micro_batch,
        optimizer=cfg.optimizer, kl_coef=cfg.kl_coef,
    )  # fmt: skip
    updater, done = training.updater, training.done
    before = run.read("metrics.jsonl")
    skipped = before[-1]["skipped_steps"] if before else 0
    reader = make_reader(cfg, training.policy, chat, (cfg.seed, done, ReaderNumber.STEP))
    print(f"{cfg.model}: {len(train)} train questions, {len(held_out)} {cfg.eval_split} questions, run in {run.path}")
    data = (train, held_out, canary_of(run, reader, canary))
    if done == 0:
        run.log("eval.jsonl", evaluate_now(cfg, reader, data, 0))
    hidden = None if common.is_first_rank() else True  # None: tqdm decides, no bar in a log file
    steps = range(done + 1, cfg.steps + 1)
    bar = tqdm(steps, initial=done, total=cfg.steps, desc="stage 1", dynamic_ncols=True, disable=hidden)
    for step in bar:
        clock: dict[str, float] = {}
        started = time.perf_counter()
        # The step's noise depends on (seed, step) alone: a resumed run needs no replay.
        reader = replace(reader, key=(cfg.seed, step, ReaderNumber.STEP), generated=0)

        # Sample questions (or collected exchanges), shuffled anew every epoch; under torchrun a rank takes its share.
        chosen = common.walk(exchanges or train, step, cfg.questions_per_step, cfg.seed)
        questions_Q, numbers = common.share_of_rank(chosen)

        # Rollout 1: G attempts on each question. Batched sampling with one KV cache (introspection/sampling.py) without
        # a graph: the paper lost 30 GB to rollouts that kept theirs (collapse cause 5).
        with torch.no_grad(), phase(bar, clock, "rollout1"):
            groups = rollout_1(
                reader, questions_Q, train, group_size=cfg.group_size, verify_on=cfg.verify_on, n_verify=cfg.n_verify,
                transfer_pool=cfg.transfer_pool, correction_turns=cfg.correction_turns, numbers=numbers,
            )  # fmt: skip
        # Rollout 2: the same conversations go on, by token ids, to one learning point each.
        with torch.no_grad(), phase(bar, clock, "rollout2"):
            rollout_2(
                reader, groups, contributors=cfg.contributors, reveal=cfg.reveal,
                max_point_tokens=cfg.max_point_tokens, introspect=cfg.introspect,
            )  # fmt: skip
        # Rollout 3: each point answers its group's views in fresh conversations; so does the reader without a point.
        with torch.no_grad(), phase(bar, clock, "rollout3"):
            rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward=cfg.reward)

        # Advantage: how much better a point scored than what it is compared with; it becomes the training weight.
        scores_QG = []
        for group in groups:
            scores_G, valid_G = scores_of(cfg, group)
            if cfg.baseline == "group_mean":
                # Baseline: the mean of the group (paper). Centring: A_j = s_j - mean, and 0 in a group without spread.
                advantages_G = centred_advantages(scores_G, valid_G)
            else:
                # Baseline: the reader without a point on the same views (a fresh baseline, collapse cause 4).
                advantages_G = fresh_advantages(scores_G, valid_G, fresh_score(cfg, group))
            if cfg.clip == "zero":
                # Clamp at zero (paper): a point below the baseline is not pushed down. Signed advantages collapsed the
                # paper's policy (cause 2): pushing tokens down says nothing about what should come in their place.
                advantages_G = advantages_G.clamp(min=0)
            else:
                # Departure from paper: a lower bound, signed advantages and SFT on what helped stand beside max(A, 0).
                errors_G = standard_errors(rewards_of(group), valid_G, view_weights(cfg, group))
                advantages_G = clip_otherwise(cfg, advantages_G, errors_G)
            for point, advantage in zip(group.points, advantages_G.tolist(), strict=True):
                point.advantage = advantage if point.valid else 0.0
            scores_QG.append(scores_G.masked_fill(~valid_G, float("nan")))

        # Update: loss = -(1/N) sum_n A_n log pi(token_n) + kl_coef (1/N) sum_n k3_n over the trained tokens of points
        # with A != 0; N counts those without too. One update a batch, so there is no ratio. `backward` leaves no
        # gradient where no point has an advantage (cause 6) or it is not finite: `apply` then skips the step. `clip`
        # bounds the gradient's norm (cause 3).
        with phase(bar, clock, "update"):
            trajectories, advantages = training_batch(cfg, groups)
            updater.backward(trajectories, advantages, loss=policy_gradient)
            updater.clip(cfg.max_grad_norm)
            update = updater.apply()

        # Log: one object a step, of all ranks' questions; an evaluation where it is time for one.
        groups, scores_QG = common.gather_ranks(groups), common.gather_ranks(scores_QG)
        clock["time/step"] = time.perf_counter() - started
        skipped += update.pop("skipped_steps")
        metrics = {"step": step} | step_metrics(chat, groups, scores_QG) | update | {"skipped_steps": skipped}
        evaluation = None
        if step == cfg.steps or (cfg.eval_every and step % cfg.eval_every == 0):
            evaluation = evaluate_now(cfg, reader, data, step)
            run.log("eval.jsonl", evaluation)
        metrics["accuracy/canary"] = evaluation["accuracy/canary"] if evaluation else None
        sampling = sum(clock[f"time/rollout{i}"] for i in (1, 2, 3))
        speed = common.sum_over_ranks(reader.generated) / sampling
        metrics |= {"tokens_per_second": speed, "peak_memory_gib": models.peak_memory_gib()}
        run.log("metrics.jsonl", metrics | clock)
        bar.write(screen.step_line(metrics, evaluation))

        # Library: points that beat their baseline, and answering without a point too.
        records = log_points(cfg, run, chat, step, groups)
        if cfg.show_every and step % cfg.show_every == 0:
            bar.write(screen.sample_points(records))

        # Save: a checkpoint is written whole or not at all; a signal to any rank stops all of them here.
        run.stopped_by = int(common.max_over_ranks(run.stopped_by or 0)) or None
        if step == cfg.steps or step % cfg.save_every == 0 or run.stopped_by:
            training.save_checkpoint(step)
        if run.stopped_by:
            bar.close()
            run.leave()
    training.save_final()
    print(screen.summary(run))


if __name__ == "__main__":
    common.launch(main, Config, "grpo_introspect")
