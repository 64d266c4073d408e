"""Stage 3: dreaming, a learning point worked into the weights at test time (paper, 'Test-time adaptation').

  1. each question to dream about is varied: the model itself writes questions when asked for a similar one, or, with
     `vary_with: task`, its counterfactual twins are taken; options come in new orders
  2. each variant gets a label: the answer that the start model gives most often with the point in context (or the gold
     answer); `own_answers` adds the question itself, with the answer that its exchange revealed
  3. GRPO on answers *without* the point in context (`context: with` is the paper's consumption training), rewarded for
     the label; a KL holds what the start model says (`rehearse`: in conversations that it makes up)
  4. it ends where accuracy on the stopping canary falls by more than `stop_drop`, with the weights of the evaluation
     before; the canary that is reported is another one
Gap closed = (after - before) / (with the point before dreaming - before), without the point, on questions that were not
dreamt.

Inputs:  points (a library), a question bank, the policy (shared.model)
Outputs: runs/<config>/dream_tta/ with targets.jsonl (variants and labels), metrics.jsonl, eval.jsonl, final/ weights
Run:     python dream_tta.py --config configs/preeclampsia.yaml
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import torch
from tqdm import tqdm

import common
from common import DreamPhase, Options, ReaderNumber, RehearsalPhase, Shared, UserError, rng
from introspection import library, models, prompts
from introspection.evaluation import canary_of
from introspection.losses import centred_advantages, policy_gradient
from introspection.reader import Reader, make_reader
from introspection.rehearsal import log_made_up, to_hold
from introspection.rollouts import answer_logprobs
from introspection.rundir import Run
from introspection.sampling import Completion, Trajectory
from introspection.stats import mean
from introspection.training import open_training
from introspection.verdicts import GAP, Verdict, by_cluster, gap_words, judge
from tasks.bank import load_questions
from tasks.mcq import Question, grade, letter_in, same_views

MAY_BE_CANARY = 96  # questions that are asked where a bank names no canary


@dataclass
class Config(Shared):
    # whose points are dreamt, JSONL (docs/reference.md, 'Records'); empty: what stage 1 wrote in this run directory
    library: str = ""
    # questions to dream about (val: tuning); a composite gets both points
    dream_split: Literal["train", "val", "composite"] = "train"
    dream_questions: int = 8  # how many of them
    # who varies a question: its record (orders, twins) or the model (nothing usable written: orders)
    vary_with: Literal["task", "model"] = "model"
    variants: int = 48  # variants of each question
    # how often each question itself is added, in new orders, labelled with the answer that its exchange revealed
    own_answers: int = 0
    # conversations a step that the start model made up: the KL is on their answers; 0: on those that are dreamt
    rehearse: int = 16
    n_label: int = 8  # answers with the point that vote on the label of a variant
    # the label; the gold answer; mean over its tokens of log p(told) - log p(not)
    reward: Literal["majority", "gold", "log_ratio"] = "majority"
    # whether the dreaming model sees the point (with: consumption training)
    context: Literal["without", "with"] = "without"
    steps: int = 120  # optimiser steps, at most
    variants_per_step: int = 8  # variants answered in one step
    group_size: int = 16  # answers to each
    lr: float = 2e-4  # AdamW
    kl_coef: float = 0.08  # weight of the k3 KL to the start policy, 0: none
    max_grad_norm: float = 1.0  # gradient clipping
    max_tokens_per_micro_batch: int = 16384  # padded tokens of one forward and backward
    temperature: float = 1.0  # of all sampling
    max_new_tokens: int = 48  # longest answer, tokens
    # longest question that the model writes (vary_with: model), tokens; longer ones are left out
    max_question_tokens: int = 48
    eval_every: int = 20  # steps between evaluations
    eval_questions: int = 96  # of each group of questions, at most
    n_eval: int = 4  # answers to each question of an evaluation
    stop_drop: float = 0.05  # a larger fall of accuracy on the stopping canary ends the dream
    save_every: int = 20  # steps between checkpoints

    def check(self) -> None:
        counts = "dream_questions variants n_label steps variants_per_step eval_every eval_questions n_eval save_every"
        self.check_numbers("dream_tta", f"{counts} max_new_tokens max_question_tokens max_tokens_per_micro_batch")
        self.check_numbers("dream_tta", "lr max_grad_norm", "a number above 0", lambda n: n > 0)
        if self.temperature == 0:
            raise UserError("dream_tta.temperature: equal answers have no spread to learn from; expected above 0")
        if self.group_size < 2:
            raise UserError("dream_tta.group_size: a group of 1 has no spread around its mean; expected at least 2")
        if self.reward == "gold" and self.vary_with == "model":
            raise UserError("dream_tta.reward: nobody knows the right answer to what a model asks; expected another")
        if self.own_answers and (self.dream_split == "composite" or self.reward == "log_ratio"):
            raise UserError("dream_tta.own_answers: expected 0 where none is known (composite) or read (log_ratio)")
        if self.rehearse and not self.kl_coef:
            raise UserError("dream_tta.rehearse: without a KL (kl_coef 0) nothing is held; expected 0")


# ---- variants and labels -------------------------------------------------------------------------------------------
def vary(cfg: Config, reader: Reader, questions: list[Question]) -> list[list[Question]]:
    """The variants of each question, options in new orders.

    `answer` is gold, or meaningless where the model wrote the question.
    """
    made = []
    for i, question in enumerate(questions):
        draw, sources = rng(*reader.key, DreamPhase.VARY, i), [question, *question.variants]
        if cfg.vary_with == "model":
            listed = prompts.list_options(list(question.options))
            asked = reader.chat.first(prompts.SIMILAR.format(question=prompts.plain(question.question), options=listed))
            completions = reader.sample([asked], DreamPhase.VARY, cfg.variants, cfg.max_question_tokens, numbers=[(i,)])
            texts = [" ".join(reader.chat.text(c.ids).split()) for c in completions if c.finished]
            new = [text for text in dict.fromkeys(texts) if text and text != question.question]
            sources = [replace(question, question=text) for text in new] or [question]
        # The sources in turn, until there are as many variants as asked for.
        made.append([same_views(sources[k % len(sources)], 1, draw)[0] for k in range(cfg.variants)])
    return made


def votes(reader: Reader, views: list[Question], points: list[str | None], phase: int, n: int) -> list[Counter]:
    """How often each letter was answered to each view, with its point."""
    completions = reader.answer([reader.prompt(v, p) for v, p in zip(views, points, strict=True)], views, phase, n)
    counts = [Counter() for _ in views]
    for k, completion in enumerate(completions):
        letter = letter_in(reader.chat.text(completion.ids), views[k // n].options)
        if letter:
            counts[k // n][letter] += 1
    return counts


def make_targets(cfg: Config, reader: Reader, questions: list[Question], points: list[str]) -> list[dict]:
    """One record a variant (targets.jsonl).

    Variants on which the point leaves the model without an answer are left out.
    """
    varied = zip(questions, points, vary(cfg, reader, questions), strict=True)
    views = [(question, point, view) for question, point, variants in varied for view in variants]
    # What an exchange revealed needs no vote.
    own = [same_views(q, cfg.own_answers, rng(*reader.key, DreamPhase.OWN, i)) for i, q in enumerate(questions)]
    revealed = [(q, point, view) for q, point, part in zip(questions, points, own, strict=True) for view in part]
    counted = votes(reader, [v for _, _, v in views], [p for _, p, _ in views], DreamPhase.LABEL, cfg.n_label)
    counted += [Counter({view.letter: cfg.n_label}) for _, _, view in revealed]
    made = []
    for (question, point, view), count in zip(views + revealed, counted, strict=True):
        if count:
            (letter, agreed), *_ = sorted(count.items(), key=lambda item: (-item[1], item[0]))
            made.append({
                "question_id": question.id,
                "cluster": question.cluster,
                "point": point,
                "question": view.question,
                "options": list(view.options),
                "gold": None if cfg.vary_with == "model" and view.question != question.question else view.letter,
                "label": letter,
                "agreement": agreed / cfg.n_label,
            })  # fmt: skip
    return made


# ---- one step ------------------------------------------------------------------------------------------------------
def prompts_of(reader: Reader, targets: list[dict], points: list[str | None]) -> list[list[int]]:
    """Prompt ids of some variants, each with its point where it has one."""
    asked = zip(targets, points, strict=True)
    return [reader.chat.first(prompts.question_turn(t["question"], t["options"], point)) for t, point in asked]


def answer_variants(cfg: Config, reader: Reader, targets: list[dict]) -> tuple[list[Trajectory], list[Completion]]:
    """G answers to each of some variants, without the point in context (or with it: consumption training)."""
    points = [t["point"] if cfg.context == "with" else None for t in targets]
    prompt_ids = prompts_of(reader, targets, points)
    views = [Question("", t["question"], tuple(t["options"]), 0, "", "") for t in targets]
    completions = reader.answer(prompt_ids, views, DreamPhase.DREAM, cfg.group_size)
    trajectories = [Trajectory(prompt_ids[k // cfg.group_size], c.segments) for k, c in enumerate(completions)]
    return trajectories, completions


def reward_answers(
    cfg: Config, reader: Reader, targets: list[dict], trajectories: list[Trajectory], completions: list[Completion]
) -> list[float]:
    """Agreement with the label or the gold answer; or how much likelier the point makes an answer, a token.

    With `log_ratio` the policy as it is now reads its own answers, with the point and without it.
    """
    asked = [targets[k // cfg.group_size] for k in range(len(completions))]
    if cfg.reward != "log_ratio":
        letters = [letter_in(reader.chat.text(c.ids), t["options"]) for c, t in zip(completions, asked, strict=True)]
        right = [t["gold" if cfg.reward == "gold" else "label"] for t in asked]
        return [float(letter is not None and letter == r) for letter, r in zip(letters, right, strict=True)]
    sums = []
    for points in ([t["point"] for t in targets], [None for _ in targets]):
        prompt_ids = prompts_of(reader, targets, points)
        read = [Trajectory(prompt_ids[k // cfg.group_size], t.segments) for k, t in enumerate(trajectories)]
        sums.append(answer_logprobs(reader, read))
    return [(told - alone) / len(c.ids) for told, alone, c in zip(*sums, completions, strict=True)]


@common.busy("evaluating")
def evaluate(cfg: Config, reader: Reader, groups: dict[str, list[Question]], labels: dict[str, str], step: int) -> dict:
    """Accuracy without a point on each group of questions.

    On the target also agreement with the start model that has the point.
    """
    reader = replace(reader, key=(cfg.seed, 0, ReaderNumber.DREAM_EVALUATION))
    each = {}
    for k, (name, questions) in enumerate(groups.items()):
        asked = [reader.prompt(q) for q in questions], questions
        completions = reader.answer(*asked, DreamPhase.EVALUATE + k, cfg.n_eval)
        texts = [reader.chat.text(c.ids) for c in completions]
        parts = [(q, texts[i * cfg.n_eval : (i + 1) * cfg.n_eval]) for i, q in enumerate(questions)]
        each[name] = {q.id: sum(grade(t, q) for t in said) / cfg.n_eval for q, said in parts}
        if name == "target":
            each["agreement"] = {}
            for q, said in parts:
                letters = [letter_in(text, q.options) for text in said]
                agreed = [letter is not None and letter == labels[q.id] for letter in letters]
                each["agreement"][q.id] = sum(agreed) / cfg.n_eval
    return {"step": step} | {name: mean(part.values()) for name, part in each.items()} | {"each": each}


# ---- main ----------------------------------------------------------------------------------------------------------
def load_data(cfg: Config) -> tuple[list[Question], list[str], dict[str, list[Question]]]:
    """(questions to dream about, their points, groups of questions for the evaluations)."""
    questions = load_questions(cfg.questions, split_by=cfg.split_by)
    records = library.merge(library.load_library(common.ROOT / cfg.library))
    known = {r["question_id"] for r in records if r["text"] and not r["leak"]}
    fitting = [q for q in questions if q.split == cfg.dream_split and q.id in known]
    # shared.cluster chooses what is dreamt; neighbours and canaries of the evaluation come from all clusters.
    fitting = [q for q in fitting if q.cluster.startswith(cfg.cluster)]
    if not fitting:
        of_clusters = f" of a cluster '{cfg.cluster}...'" if cfg.cluster else ""
        missing = f"has no point for a {cfg.dream_split} question{of_clusters} in {cfg.questions}"
        raise UserError(f"dream_tta.library: {cfg.library} {missing}")
    chosen = common.draw_some(fitting, cfg.dream_questions, rng(cfg.seed))
    clusters, ids = {q.cluster for q in chosen}, {q.id for q in chosen}
    dreamt_of = clusters | {part for name in clusters for part in name.split("+")}  # a composite is of two clusters
    # Target: other questions of the dreamt clusters; neighbour: questions of other clusters. Tuning stays on val.
    new = "test" if cfg.dream_split == "train" else cfg.dream_split
    beside = "val" if new == "val" else "test"
    groups = {
        "target": [q for q in questions if q.cluster in clusters and q.split == new and q.id not in ids],
        "neighbour": [q for q in questions if q.cluster not in dreamt_of and q.split == beside],
    }
    canary = [q for q in questions if q.split == "canary"]
    # A bank that names no canary lends questions that the start model is asked first (introspection/evaluation.py).
    spare = [q for q in questions if q.split in ("val", "test") and q.cluster not in dreamt_of]
    lent = common.draw_some(spare, MAY_BE_CANARY, rng(cfg.seed, 2)) if not canary else []
    taken = {q.id for q in lent}
    groups["neighbour"] = [q for q in groups["neighbour"] if q.id not in taken]
    groups |= {"canary_stop": canary[::2], "canary": canary[1::2], "lent": lent}
    if not groups["target"]:
        raise UserError(f"dream_tta.dream_questions: {cfg.questions} has no other {new} question of what is dreamt")
    draw = rng(cfg.seed, 1)
    groups = {name: common.draw_some(part, cfg.eval_questions, draw) for name, part in groups.items() if part}
    return chosen, [library.point_of(q.id, records) for q in chosen], groups


def main(cfg: Config, options: Options) -> None:
    # Everything that can be wrong with the input is looked at before any weight is loaded.
    prompts.use(cfg.prompts, common.ROOT)
    run = Run(options.run_dir, cfg, options.resume)
    cfg = replace(cfg, library=cfg.library or str(run.stage_1 / "library.jsonl"))
    questions, points, groups = load_data(cfg)
    chat = models.load_chat(cfg.model, cfg.system, cfg.thinking)
    common.check_one_process("dream_tta")
    if options.dry_run:
        evaluated = ", ".join(f"{len(part)} {name}" for name, part in groups.items())
        print(f"{len(questions)} questions to dream about; evaluated on {evaluated}")
        return
    run.check()
    if run.finished:
        print(summary(run))
        return
    budget = cfg.max_tokens_per_micro_batch
    training = open_training(
        run, cfg, chat, lr=cfg.lr, temperature=cfg.temperature, max_tokens=budget, kl_coef=cfg.kl_coef
    )  # fmt: skip
    updater = training.updater
    before = run.read("metrics.jsonl")
    counted = ("generated_tokens", "trained_tokens", "skipped_steps")
    generated, trained, skipped = (before[-1][name] if before else 0 for name in counted)
    key = (cfg.seed, 0, ReaderNumber.DREAM)
    # Appended answers are never trained, so what is dreamt is a rationale.
    reader = make_reader(cfg, training.policy, chat, key, generated=generated, rationale=True)

    if "lent" in groups:  # groups without questions are gone
        known = canary_of(run, reader, groups.pop("lent"))
        groups |= {name: part for name, part in (("canary_stop", known[::2]), ("canary", known[1::2])) if part}

    # Variants, their labels, and what the start model says with and without the point: measured once, before the first
    # step.
    if training.done == 0:
        start_dream(cfg, run, reader, questions, points, groups)
        run.save("held", training.write_checkpoint)
    targets, made_up, first = run.read("targets.jsonl"), run.read("rehearsals.jsonl"), run.read("eval.jsonl")[0]
    if not targets:
        where = run.path / "targets.jsonl"
        raise UserError(f"{where}: the model answered no variant, even with the point; nothing to dream about")

    steps = range(training.done + 1, cfg.steps + 1)
    bar = tqdm(steps, initial=training.done, total=cfg.steps, desc="stage 3", dynamic_ncols=True, disable=None)
    for step in bar:
        # Stop when what the model knew before begins to go; without canary questions nothing stops a dream.
        if fell(cfg, first, run.read("eval.jsonl")[-1]):
            break

        # Answer the next variants, without the point in context (with it: consumption training).
        reader = replace(reader, key=(cfg.seed, step, ReaderNumber.DREAM))
        variants = common.walk(targets, step, cfg.variants_per_step, cfg.seed, DreamPhase.ORDER)
        with torch.no_grad():
            trajectories, completions = answer_variants(cfg, reader, variants)
            rewards = reward_answers(cfg, reader, variants, trajectories, completions)

        # Advantage: each answer against its group's mean, clamped at zero as in stage 1: answers below it are dropped.
        rewards_QG = torch.tensor(rewards, dtype=torch.float64).split(cfg.group_size)
        valid_G = torch.ones(cfg.group_size, dtype=torch.bool)
        advantages = torch.cat([centred_advantages(group, valid_G).clamp(min=0) for group in rewards_QG]).tolist()
        # What the start model says elsewhere is held: a few of its made-up conversations.
        held = common.walk(made_up, step, cfg.rehearse, cfg.seed, RehearsalPhase.MAKE_UP) if made_up else []
        updater.backward(trajectories, advantages, loss=policy_gradient, held=to_hold(chat, held))
        updater.clip(cfg.max_grad_norm)
        update = updater.apply()

        # Log, with tokens so far, those of variants and labels among them; evaluate and save where it is time to.
        skipped += update["skipped_steps"]
        if not update["skipped_steps"]:
            trained += sum(sum(t.loss_mask) for t, a in zip(trajectories, advantages, strict=True) if a)
        metrics = {
            "step": step,
            "reward": sum(rewards) / len(rewards),
            "frac_reward_zero_std": sum(float(g.max() == g.min()) for g in rewards_QG) / len(rewards_QG),
            **update,
            "skipped_steps": skipped,
            "generated_tokens": reader.generated,
            "trained_tokens": trained,
        }
        if step % cfg.eval_every == 0 or step == cfg.steps:
            record = evaluate(cfg, reader, groups, first["labels"], step)
            run.log("eval.jsonl", record)
            shown = {name: value for name, value in record.items() if name not in ("step", "each")}
            bar.write(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in shown.items()))
            if not fell(cfg, first, record):
                run.save("held", training.write_checkpoint)
        run.log("metrics.jsonl", metrics)
        bar.set_postfix_str(f"reward {metrics['reward']:.2f}")
        if step % cfg.save_every == 0 or step == cfg.steps or run.stopped_by:
            training.save_checkpoint(step)
        if run.stopped_by:
            bar.close()
            run.leave()

    # The steps that made the stopping canary fall are taken back; the record of what is kept closes the log.
    before, last = run.read("eval.jsonl")[-2:]
    if fell(cfg, first, last):
        fall = f"from {first['canary_stop']:.3f} to {last['canary_stop']:.3f} at step {last['step']}"
        print(f"the stopping canary fell {fall}: back to the weights of step {before['step']}")
        models.restore(training.policy, updater, run.path / "held")
        run.log("eval.jsonl", before)
    training.save_final()
    print(summary(run))


def fell(cfg: Config, first: dict, record: dict) -> bool:
    """Whether an evaluation's stopping canary, where there is one, is further below the first than it may be."""
    return "canary_stop" in first and record["canary_stop"] < first["canary_stop"] - cfg.stop_drop


@common.busy("making and labelling variants")
def start_dream(
    cfg: Config,
    run: Run,
    reader: Reader,
    questions: list[Question],
    points: list[str],
    groups: dict[str, list[Question]],
) -> None:
    """Before the first step: variants with labels, made-up conversations, what the start model answers with and without
    the point.
    """
    print(f"{cfg.model}: {cfg.variants} variants of each of {len(questions)} questions")
    dreamt: dict[str, list[str]] = {}  # variants, by cluster
    for record in make_targets(cfg, reader, questions, points):
        run.log("targets.jsonl", record)
        dreamt.setdefault(record["cluster"], []).append(record["question"])
    longest_turn = cfg.max_question_tokens + cfg.max_new_tokens
    if cfg.rehearse and not log_made_up(run, reader, cfg.rehearse, longest_turn, dreamt):
        print("so the KL stays on the answers that are dreamt")
    of_cluster: dict[str, list[str]] = {}
    for q, point in zip(questions, points, strict=True):
        of_cluster.setdefault(q.cluster, []).append(point)
    target, told = groups["target"], []
    for i, q in enumerate(target):  # all points that are dreamt, in turn
        of_question = of_cluster[q.cluster]
        told.append(of_question[i % len(of_question)])
    labelling = replace(reader, key=(cfg.seed, 0, ReaderNumber.DREAM_LABELS))
    counted = votes(labelling, target, told, DreamPhase.LABEL, cfg.n_label)
    labels = {q.id: count.most_common(1)[0][0] if count else "" for q, count in zip(target, counted, strict=True)}
    # What the point is worth in context is measured with new noise: a mode agrees too well with its own votes.
    reading = replace(reader, key=(cfg.seed, 0, ReaderNumber.DREAM_WITH_POINT))
    counted = votes(reading, target, told, DreamPhase.LABEL, cfg.n_label)
    record = evaluate(cfg, reader, groups, labels, 0)
    for name, right in (("target", {q.id: q.letter for q in target}), ("agreement", labels)):
        part = {q.id: count[right[q.id]] / cfg.n_label for q, count in zip(target, counted, strict=True)}
        record["each"][f"{name}_with_point"], record[f"{name}_with_point"] = part, mean(part.values())
    clusters = {name: {q.id: q.cluster for q in part} for name, part in groups.items()}
    run.log("eval.jsonl", record | {"labels": labels, "clusters": clusters})


def change(first: dict, last: dict, name: str, hurts: bool = False) -> Verdict:
    """What may be said of a group's change; hurts: the point that was dreamt makes answers in context worse."""
    group = "target" if name == "agreement" else name
    each = {q: last["each"][name][q] - before for q, before in first["each"][name].items()}
    clusters = first.get("clusters", {}).get(group, {})
    return judge([by_cluster(each, clusters)], group == "target", "the point hurts in context" if hurts else "")


def summary(run: Run) -> str:
    """The closing summary of a finished run, from its files."""
    evaluations = run.read("eval.jsonl")
    first, last = evaluations[0], evaluations[-1]
    lines = [
        "",
        "== stage 3 finished ==",
        "",
        f"{last['step']} steps; without the point in context, on questions that were not dreamt:",
    ]
    for name, words in (("target", "accuracy"), ("agreement", "agreement with the start model that has the point")):
        aim = first[f"{name}_with_point"]
        lines.append(
            f"   {words}: {first[name]:.3f} -> {last[name]:.3f}, "
            f"with the point in context {aim:.3f}: {gap_words(first[name], last[name], aim)}"
        )
        lines.append(f"      change {change(first, last, name, aim < first[name] - GAP)}")
    for name in ("neighbour", "canary_stop", "canary"):
        if name in first:
            lines.append(f"   {name}: {first[name]:.3f} -> {last[name]:.3f}")
            lines.append(f"      change {change(first, last, name)}")
    held = "rehearsals.jsonl (what is held), " if run.cfg.rehearse else ""
    files = f"targets.jsonl (variants, labels), {held}metrics.jsonl, eval.jsonl, final/ (weights)"
    lines += ["", f"Everything is in {run.path}: {files}"]
    return "\n".join(lines)


if __name__ == "__main__":
    common.launch(main, Config, "dream_tta")
