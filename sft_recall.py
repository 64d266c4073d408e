"""Stage 2: supervised fine-tuning for recall (paper, 'SFT for recall').

  1. every train question is answered without a point and with the best points that the library has for its cluster
  2. needed (the best point gains `needed_gain` on answers that did not choose it): <recall>point</recall> is the
     target; not needed (right `not_needed_accuracy` of the time without): no recall is; the rest is left out, counted
  3. supervised fine-tuning on these targets, classes balanced, options in a new order every epoch, stopped by held-out
     loss
With `loss_on: recall` answers are not taught but held, by their KL to what the start model says with the same point in
context, or with none: the bank's answers cannot come in by the back door, and a recalled point is read as one that was
given. So are answers in conversations that the start model makes up (`rehearse`): elsewhere nothing is recalled.

Inputs:  a library (stage 1), a question bank, the policy to teach (shared.model)
Outputs: runs/<config>/sft_recall/: targets, rehearsals, metrics (one line an epoch), eval (all .jsonl), final/ weights
Run:     python sft_recall.py --config configs/preeclampsia.yaml
"""

import shutil
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

import common
from common import Options, ReaderNumber, RecallPhase, RehearsalPhase, Shared, UserError, rng
from introspection import library, models, prompts
from introspection.reader import Reader, make_reader
from introspection.recall import find_threshold
from introspection.rehearsal import held_pairs, log_made_up
from introspection.rundir import Run
from introspection.sampling import Trajectory
from introspection.teacher import Teacher, divergence, likeliest, logprobs_at, with_tail
from introspection.training import open_training
from introspection.verdicts import by_cluster, judge, spoilt_by
from tasks.bank import load_questions
from tasks.mcq import Question, grade, letter_in, same_views

LIKELIEST = 32  # tokens at which an answer is compared with the start model's; all others count as one more


@dataclass
class Config(Shared):
    # learning points, JSONL (docs/reference.md, 'Records'); empty: what stage 1 wrote in this run directory
    library: str = ""
    candidates: int = 2  # points tried on each question: the best of its cluster, by the library's lower bounds
    # answers to a question without a point, and with each candidate to choose it, and again to measure it
    n_measure: int = 8
    needed_gain: float = 0.2  # gain of the chosen point, on answers that did not choose it, from which recall is needed
    not_needed_accuracy: float = 0.9  # accuracy without a point from which it is not
    # what is taught: the point, or a right answer too (paper: both)
    loss_on: Literal["recall", "recall+answer"] = "recall"
    held_out: float = 0.15  # share of the targets whose loss decides when to stop
    # whether a train question's twins are asked too: more targets, but answers that no exchange revealed
    twins: bool = False
    # conversations a step that the start model made up, whose answers are held: elsewhere nothing is to be recalled
    rehearse: int = 16
    epochs: int = 60  # passes over the targets, at most
    patience: int = 9  # epochs without a better held-out loss after which training stops
    batch_size: int = 32  # targets of an optimiser step
    lr: float = 4e-4  # AdamW
    max_grad_norm: float = 1.0  # gradient clipping
    max_tokens_per_micro_batch: int = 16384  # padded tokens of one forward and backward
    temperature: float = 1.0  # of all sampling
    max_new_tokens: int = 96  # longest turn: a recalled point and an answer, tokens
    eval_split: Literal["val", "test"] = "test"  # questions of which a few are answered before and after
    eval_questions: int = 96  # at most

    def check(self) -> None:
        counts = "candidates n_measure epochs patience batch_size max_new_tokens eval_questions"
        self.check_numbers("sft_recall", f"{counts} max_tokens_per_micro_batch")
        self.check_numbers("sft_recall", "rehearse", "at least 0", lambda n: n >= 0)
        self.check_numbers("sft_recall", "lr max_grad_norm", "a number above 0", lambda n: n > 0)
        self.check_numbers("sft_recall", "held_out", "a share between 0 and 1", lambda n: 0 < n < 1)


@dataclass
class Target:
    """What the model shall say to a question.

    `recall` None: nothing is to be recalled; `said`: its own right answers, each (options as they stood, text); `gain`:
    accuracy with the best point less that without.
    """

    question: Question
    recall: str | None
    said: list[tuple[list[str], str]]
    gain: float = 0.0

    @property
    def family(self) -> str:
        """The id that a question shares with its twins."""
        return self.question.id.split("~")[0]

    def conversations(self, reader: Reader, draw: np.random.Generator | None) -> tuple[Trajectory, Trajectory]:
        """(what the model shall say, the same answer read after the point); draw None: as it was measured first.

        In the second one the point stands in the question's turn instead of the model's. An answer is taught under the
        order of options in which it was sampled, because it may speak of letters anywhere.
        """
        chat, block, answer = reader.chat, [], []
        view, said = same_views(self.question, 1, draw)[0] if draw else self.question, None
        if self.said:
            options, said = self.said[int(draw.integers(len(self.said))) if draw else 0]
            place = options.index(self.question.options[self.question.answer])
            view = replace(self.question, options=tuple(options), answer=place)
        if self.recall is not None:
            block = chat.content_ids(prompts.RECALL.format(point=prompts.plain(self.recall)))
        if said is not None:
            answer = [*chat.content_ids(said), chat.end]
        thought = chat.close_thought([])  # where the prompt opens one, recall and answer stand after its end
        recalling = Trajectory(reader.prompt(view) + thought, [(block, True), (answer, True)])
        reading = Trajectory(reader.prompt(view, self.recall) + thought, [(answer, True)])
        return recalling, reading


# ---- what is needed ------------------------------------------------------------------------------------------------
Said = list[tuple[list[str], str]]  # answers that are right, each with the options as they stood
Answers = list[tuple[float, Said]]  # of each (question, point): accuracy, and what was right


def measure(reader: Reader, asked: list[tuple[Question, str | None]], phase: int, n: int) -> Answers:
    """n answers to each (question, point). Every answer sees another order of the options."""
    views = [view for i, (q, _) in enumerate(asked) for view in same_views(q, n, rng(*reader.key, phase, i))]
    points = [point for _, point in asked for _ in range(n)]
    completions = reader.answer([reader.prompt(v, p) for v, p in zip(views, points, strict=True)], views, phase)
    texts = [reader.chat.text(c.ids) for c in completions]
    right = [grade(text, view) for text, view in zip(texts, views, strict=True)]
    results = []
    for i in range(len(asked)):
        part = range(i * n, (i + 1) * n)
        # A model that recalls already would otherwise be held to the block that it wrote this time.
        said = [(list(views[k].options), prompts.without_recall(texts[k])) for k in part if right[k]]
        results.append((sum(right[k] for k in part) / n, said))
    return results


def candidates_of(question: Question, records: list[dict], n: int) -> list[str]:
    """The n most promising points for a question, each wording once: of its cluster and of what was measured on it, by
    the lower bound of what they are worth there (paper: argmax over points of A(i; q)).
    """
    sound = [r for r in records if r["text"] and not r["leak"]]
    near = [r for r in sound if r["cluster"] == question.cluster or library.was_measured_on(question.id, r)]
    near.sort(key=lambda r: -library.lower_bound_on(question.id, r))
    best: dict[str, str] = {}
    for record in near:  # a wording ranks by its best record
        best.setdefault(library.essence(record["text"]), record["text"])
    return list(best.values())[:n]


@common.busy("measuring what needs a point")
def make_targets(cfg: Config, reader: Reader, questions: list[Question], records: list[dict]) -> list[dict]:
    """One record a question (targets.jsonl): its class, its best point, and how both were measured."""
    # Without a point.
    base = measure(reader, [(q, None) for q in questions], RecallPhase.BASE, cfg.n_measure)
    # The best of the candidates is chosen on some answers and measured on others: choosing flatters.
    candidates = [(q, text) for q in questions for text in candidates_of(q, records, cfg.candidates)]
    results = measure(reader, candidates, RecallPhase.CANDIDATES, cfg.n_measure)
    chosen: dict[str, tuple[float, str]] = {}
    for (question, text), (accuracy, _) in zip(candidates, results, strict=True):
        chosen[question.id] = max(chosen.get(question.id, (-1.0, "")), (accuracy, text))
    again = [(q, chosen[q.id][1]) for q in questions if q.id in chosen]
    results = measure(reader, again, RecallPhase.AGAIN, cfg.n_measure)
    with_point = {question.id: result for (question, _), result in zip(again, results, strict=True)}
    # Needed, not needed, or in between, which is left out of training.
    made = []
    for question, (without, said) in zip(questions, base, strict=True):
        accuracy, said_with = with_point.get(question.id, (None, []))
        kind = "unknown"
        if without >= cfg.not_needed_accuracy:
            kind = "not needed"
        elif accuracy is not None and accuracy - without >= cfg.needed_gain:
            kind = "needed"
        text = chosen[question.id][1] if question.id in chosen else None
        made.append(
            {
                "question_id": question.id,
                "cluster": question.cluster,
                "class": kind,
                "accuracy_without": without,
                "accuracy_with": accuracy,
                "recall": text if kind == "needed" else None,
                "best_point": text,
                "said": said_with if kind == "needed" else said,
            }
        )
    return made


@common.busy("making up conversations")
def make_up_elsewhere(cfg: Config, run: Run, reader: Reader, train: list[Question]) -> None:
    about: dict[str, list[str]] = {}
    for q in train:
        about.setdefault(q.cluster, []).append(q.turn)
    log_made_up(run, reader, cfg.rehearse, 2 * cfg.max_new_tokens, about)  # a question may be longer than a turn


# ---- training ------------------------------------------------------------------------------------------------------
def epoch_of(
    cfg: Config, reader: Reader, targets: list[Target], epoch: int
) -> list[list[tuple[Trajectory, Trajectory]]]:
    """The batches of an epoch, shuffled, options in a new order.

    The smaller class is repeated until both are equally many.
    """
    draw = rng(cfg.seed, RecallPhase.ORDER, epoch)
    classes = [[t for t in targets if t.recall is not None], [t for t in targets if t.recall is None]]
    most = max(map(len, classes))
    drawn = [part[i % len(part)] for part in classes if part for i in range(most)]
    drawn = [drawn[i] for i in draw.permutation(len(drawn))]
    pairs = [t.conversations(reader, draw) for t in drawn]
    return [pairs[i : i + cfg.batch_size] for i in range(0, len(pairs), cfg.batch_size)]


def certain_rows(ids: list[int], k: int, vocabulary: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids (T, k), log-probabilities (T, k)) of a teacher that is certain of each of the T tokens.

    The k - 1 ids after a token only fill its row. Their log-probability is next to nothing: with minus infinity,
    nothing times it would be NaN.
    """
    first = torch.tensor(ids, dtype=torch.long, device=device)[:, None]  # (T, 1)
    logprobs = torch.full((len(ids), k), -1e4, device=device)
    logprobs[:, 0] = 0.0
    return (first + torch.arange(k, device=device)) % vocabulary, logprobs


def make_teacher(cfg: Config, start, pairs: list[tuple[Trajectory, Trajectory]]) -> Teacher:
    """What each token of a target shall be, for KL(teacher || policy).

    The token itself where it is taught (the recalled point, with `recall+answer` the answer too), what the start model
    says after the point in the question's turn where an answer is held.
    """
    # Departure from paper: with `loss_on: recall` answers are held, not trained.
    budget = cfg.max_tokens_per_micro_batch
    reading = [read for _, read in pairs]  # only their answers are scored
    held_ids = likeliest(start, reading, LIKELIEST, 1.0, budget)  # (answer tokens, k) of each pair
    held_logprobs = logprobs_at(start, reading, held_ids, 1.0, budget)
    vocabulary = start.get_output_embeddings().weight.shape[0]
    ids, logprobs = [], []
    for (trajectory, _), answer_ids, answer_logprobs in zip(pairs, held_ids, held_logprobs, strict=True):
        (block, _), (answer, _) = trajectory.segments
        taught = block + answer if cfg.loss_on == "recall+answer" else block
        taught_ids, taught_logprobs = certain_rows(taught, answer_ids.shape[1], vocabulary, answer_ids.device)
        held_from = len(taught) - len(block)  # the place in the answer from which its tokens are held
        ids.append(torch.cat([taught_ids, answer_ids[held_from:]]))
        logprobs.append(torch.cat([taught_logprobs, answer_logprobs[held_from:]]))
    return Teacher(ids, logprobs, forward_kl)


def forward_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) (N,) over k tokens and all others as one more."""
    return divergence(with_tail(student), with_tail(teacher), alpha=0.0)


def held_out_loss(cfg: Config, reader: Reader, start, targets: list[Target]) -> float:
    """Mean over targets of the mean loss of their tokens, on the first of their answers."""
    pairs = [t.conversations(reader, None) for t in targets]
    teacher = make_teacher(cfg, start, pairs)
    said = logprobs_at(reader.model, [t for t, _ in pairs], teacher.ids, 1.0, cfg.max_tokens_per_micro_batch)
    losses = [teacher.divergence(*both).mean().item() for both in zip(said, teacher.logprobs, strict=True)]
    return sum(losses) / len(targets)


@common.busy("evaluating")
def evaluate(cfg: Config, reader: Reader, groups: dict[str, list[Question]], epoch: int) -> dict:
    """How often recall fires on its own, and accuracy as the model answers now, on each group of questions."""
    reader = replace(reader, key=(cfg.seed, 0, ReaderNumber.RECALL_EVALUATION))
    record = {"epoch": epoch}
    for k, (name, questions) in enumerate(groups.items()):
        completions = reader.answer([reader.prompt(q) for q in questions], questions, RecallPhase.EVALUATE + k)
        texts = [reader.chat.text(c.ids) for c in completions]
        fired = [prompts.parse_recall(text) is not None for text in texts]
        right = [grade(text, q) for text, q in zip(texts, questions, strict=True)]
        record[name] = {
            "questions": len(questions),
            "fire_rate": sum(fired) / len(texts),
            "accuracy": sum(right) / len(texts),
            "parse_rate/answer": sum(letter_in(t, q.options) is not None for t, q in zip(texts, questions, strict=True))
            / len(texts),
            "each": {q.id: float(hit) for q, hit in zip(questions, right, strict=True)},
            "clusters": {q.id: q.cluster for q in questions},
        }
    return record


# ---- main ----------------------------------------------------------------------------------------------------------
def load_data(cfg: Config) -> tuple[list[Question], list[dict], dict[str, list[Question]]]:
    """(train questions, library records, questions of the evaluations).

    A twin that is another split's question word for word is left out.
    """
    questions = load_questions(cfg.questions, cfg.cluster, cfg.split_by)
    # Samples of a wording that came up often are pooled.
    records = library.merge(library.load_library(common.ROOT / cfg.library))
    elsewhere = {q.question for q in questions if q.split != "train"}
    train = []
    for question in (q for q in questions if q.split == "train"):
        train.append(question)
        if cfg.twins:
            train += [twin for twin in question.variants if twin.question not in elsewhere]
    # What cannot be taught is said before anything is measured.
    usable = {r["cluster"] for r in records if r["text"] and not r["leak"]}
    if not usable & {q.cluster for q in train}:
        nothing = f"{cfg.library} has no point for any cluster of the train questions in {cfg.questions}"
        leaks = sum(r["leak"] for r in records)
        raise UserError(f"sft_recall.library: {nothing}{f' ({leaks} of {len(records)} leak)' if leaks else ''}")
    if len(train) < 2:
        raise UserError(f"shared.questions: {cfg.questions} has one train question; one is held out, so two are needed")
    groups = {}
    for split in (cfg.eval_split, "test_clusters", "canary"):
        part = [q for q in questions if q.split == split]
        if part:
            groups[split] = common.draw_some(part, cfg.eval_questions, rng(cfg.seed))
    return train, records, groups


def split_targets(cfg: Config, run: Run, train: list[Question]) -> tuple[list[Target], list[Target]]:
    """(what is taught, what is held out to decide when to stop: questions with their twins). Raises UserError."""
    where = run.path / "targets.jsonl"
    by_id = {q.id: q for q in train}
    kept = [r for r in run.read("targets.jsonl") if r["class"] != "unknown"]
    gains = [(r["accuracy_without"] if (a := r["accuracy_with"]) is None else a) - r["accuracy_without"] for r in kept]
    targets = [Target(by_id[r["question_id"]], r["recall"], r["said"], g) for r, g in zip(kept, gains, strict=True)]
    if not any(t.recall for t in targets):
        raise UserError(f"{where}: no question needs a point of {cfg.library}; nothing to teach")
    if len(targets) < 2:
        raise UserError(f"{where}: one target cannot be both taught and held out; expected more questions or points")
    families = list(dict.fromkeys(t.family for t in targets))
    # Epochs count from 1, so that 0 is free in the key.
    draws = [rng(cfg.seed, RecallPhase.ORDER, 0, i).random() for i in range(len(families))]
    drawn = {name for name, draw in zip(families, draws, strict=True) if draw < cfg.held_out} or {families[0]}
    held_out = [t for t in targets if t.family in drawn][: len(targets) - 1]  # something is left to teach
    return [t for t in targets if t not in held_out], held_out


def main(cfg: Config, options: Options) -> None:
    # Everything that can be wrong with the input is looked at before any weight is loaded.
    prompts.use(cfg.prompts, common.ROOT)
    run = Run(options.run_dir, cfg, options.resume)
    cfg = replace(cfg, library=cfg.library or str(run.stage_1 / "library.jsonl"))
    train, records, groups = load_data(cfg)
    chat = models.load_chat(cfg.model, cfg.system, cfg.thinking)
    common.check_one_process("sft_recall")
    if options.dry_run:
        evaluated = ", ".join(f"{len(p)} {s}" for s, p in groups.items())
        print(f"{len(train)} train questions, {len(records)} library records; evaluated on {evaluated}")
        return
    run.check()
    if run.finished:
        print(summary(run))
        return
    budget = cfg.max_tokens_per_micro_batch
    training = open_training(run, cfg, chat, lr=cfg.lr, temperature=1.0, max_tokens=budget, keep_start=True)
    policy, updater, start = training.policy, training.updater, training.ref_policy
    before = run.read("metrics.jsonl")
    generated = before[-1]["generated_tokens"] if before else 0
    key = (cfg.seed, 0, ReaderNumber.RECALL_MEASURE)
    reader = make_reader(cfg, policy, chat, key, generated=generated, rationale=True)  # a turn that recalls is sampled

    # Which questions need a point, and which one: measured once, with the start model.
    if training.done == 0:
        print(f"{cfg.model}: measuring {len(train)} train questions with and without points")
        for record in make_targets(cfg, reader, train, records):
            run.log("targets.jsonl", record)
        if cfg.rehearse:
            make_up_elsewhere(cfg, run, reader, train)
        run.log("eval.jsonl", evaluate(cfg, reader, groups, 0))
    taught, held_out = split_targets(cfg, run, train)
    made_up = run.read("rehearsals.jsonl")

    steps = range(training.done + 1, cfg.epochs + 1)
    bar = tqdm(steps, initial=training.done, total=cfg.epochs, desc="stage 2", dynamic_ncols=True, disable=None)
    for epoch in bar:
        # Stop where the held-out loss has not become better for `patience` epochs.
        before = run.read("metrics.jsonl")
        losses = [r["held_out_loss"] for r in before]
        if len(losses) > cfg.patience and min(losses[-cfg.patience :]) >= min(losses[: -cfg.patience]):
            break

        # Supervised fine-tuning, classes balanced, options in a new order: towards the point where it is taught,
        # towards what the start model says where an answer is held, and in conversations that it made up.
        updates, (done, skipped) = [], ((before[-1]["step"], before[-1]["skipped_steps"]) if before else (0, 0))
        for step, batch in enumerate(epoch_of(cfg, reader, taught, epoch), start=done + 1):
            held = common.walk(made_up, step, cfg.rehearse, cfg.seed, RehearsalPhase.MAKE_UP) if made_up else []
            batch += held_pairs(chat, held)
            updater.backward([t for t, _ in batch], [1.0 for _ in batch], teacher=make_teacher(cfg, start, batch))
            updater.clip(cfg.max_grad_norm)
            updates.append(updater.apply())

        # Log, and keep the weights of the best epoch so far.
        loss = held_out_loss(cfg, reader, start, held_out)
        best = loss < min(losses, default=float("inf"))
        ratios, norms = ([u[name] for u in updates if u[name] is not None] for name in ("update_ratio", "grad_norm"))
        metrics = {
            "epoch": epoch,
            "step": done + len(updates),
            "held_out_loss": loss,
            "grad_norm": max(norms, default=None),
            "update_ratio": min(ratios, default=None),  # of the step that precision swallowed most of
            "skipped_steps": skipped + sum(u["skipped_steps"] for u in updates),
            "generated_tokens": reader.generated,  # to measure what needs a point; nothing is sampled later
        }
        run.log("metrics.jsonl", metrics)
        bar.write(f"epoch {epoch}: held-out loss {loss:.4f}{' (best)' if best else ''}")
        if best:
            run.save("best", training.write_checkpoint)
        training.save_checkpoint(epoch)
        if run.stopped_by:
            bar.close()
            run.leave()

    # The best epoch is evaluated and kept.
    models.restore(policy, updater, run.path / "best")
    best = min(run.read("metrics.jsonl"), key=lambda r: r["held_out_loss"])  # the first of equal ones, as above
    run.log("eval.jsonl", evaluate(cfg, reader, groups, best["epoch"]))
    training.save_final(recall=find_threshold(reader, held_out, made_up))
    shutil.rmtree(run.path / "best")
    print(summary(run))


def summary(run: Run) -> str:
    """The closing summary of a finished run, from its files."""
    targets, (before, after) = run.read("targets.jsonl"), run.read("eval.jsonl")
    count = {kind: sum(t["class"] == kind for t in targets) for kind in ("needed", "not needed", "unknown")}
    taught = {t["cluster"] for t in targets if t["class"] != "unknown"}
    losses = [r["held_out_loss"] for r in run.read("metrics.jsonl")]
    lines = [
        "",
        "== stage 2 finished ==",
        "",
        "train questions: " + ", ".join(f"{n} {kind}" for kind, n in count.items()),
    ]
    lines.append(f"held-out loss {losses[0]:.3f} after the first epoch, {min(losses):.3f} at the best of {len(losses)}")
    for split in (name for name in before if name != "epoch"):
        b, a = before[split], after[split]
        lines.append(
            f"   {split}: recall fires {b['fire_rate']:.2f} -> {a['fire_rate']:.2f}, "
            f"accuracy {b['accuracy']:.3f} -> {a['accuracy']:.3f}"
        )
        spoilt = "every answer is wrong now" if b["accuracy"] > a["accuracy"] == 0 else ""
        spoilt = spoilt or spoilt_by({"answers": a["parse_rate/answer"]})
        change = by_cluster({q: a["each"][q] - right for q, right in b["each"].items()}, a["clusters"])
        lines.append(f"      change {judge([change], bool(taught & set(a['clusters'].values())), spoilt)}")
    held = "rehearsals.jsonl (what is held), " if run.cfg.rehearse else ""
    lines += ["", f"Everything is in {run.path}: targets.jsonl, {held}metrics.jsonl, eval.jsonl, final/ (weights)"]
    return "\n".join(lines)


if __name__ == "__main__":
    common.launch(main, Config, "sft_recall")
