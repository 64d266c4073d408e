"""Stage 1 as a user meets it: the command line, resume after kill -9, bad input, and what lands on disk."""

import json
import os
import re
import signal
import sys
from dataclasses import replace

import pytest
import torch
from commands import Dead, interrupted, killed, overrides, process, python, same_weights
from conftest import SMALL, config, give_advantages, made_step, one_step, tiny_llama

import grpo_introspect
from benchmarks.common import take_step
from common import ROOT, Options, UserError, rng, walk
from grpo_introspect import evaluate_now, load_data, main, point_record, step_metrics, training_batch
from introspection import detectors, library, models
from introspection.chat import Chat
from introspection.library import KEYS
from introspection.models import restore, write_checkpoint
from introspection.reader import Reader, cut_before_letter, option_probabilities, score
from introspection.rundir import Run
from introspection.sampling import Trajectory, next_logprobs
from introspection.update import Updater
from tasks.bank import load_questions
from tasks.mcq import same_views, transfer_views, twin_views

TIMES = ("time/", "tokens_per_second", "peak_memory_gib")


STAGE_1 = ("grpo_introspect.py", "--config", "configs/preeclampsia.yaml")


@pytest.fixture(scope="module")
def little(parrot, bank) -> list[str]:
    return [*SMALL, f"shared.model={parrot}", f"shared.questions={bank}"]


def small(little, run_dir, *more: str) -> list[str]:
    return [*STAGE_1, "--run-dir", str(run_dir), *overrides(*little, *more)]


def metrics(run_dir) -> list[dict]:
    lines = (run_dir / "grpo_introspect/metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(TIMES)} for line in lines]


def weights(run_dir) -> bytes:
    return (run_dir / "grpo_introspect/final/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(little, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished")
    done = process(*small(little, run_dir))
    assert done.returncode == 0, done.stderr
    return run_dir, done


@pytest.mark.slow
def test_run_directory_and_summary(finished):
    run_dir, done = finished
    stage = run_dir / "grpo_introspect"
    names = {p.name for p in stage.iterdir()}
    assert {
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "eval.jsonl",
        "rollouts.jsonl",
        "library.jsonl",
        "final",
        "checkpoint-2",
        "checkpoint-4",
    } <= names
    assert [m["step"] for m in metrics(run_dir)] == [1, 2, 3, 4]
    assert "NaN" not in (stage / "metrics.jsonl").read_text()
    for line in (stage / "library.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert set(KEYS) == set(record) and record["verified_on"] and not record["leak"]
    assert len((stage / "rollouts.jsonl").read_text().splitlines()) == 4 * 8
    for word in ("stage 1 finished", "best", "worst", "change of introspection advantage", str(stage), "Next:"):
        assert word in done.stdout
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(stage / "final")


@pytest.mark.slow
def test_same_seed_twice_and_kill_minus_nine_give_the_same_run(finished, little, parrot, tmp_path):
    """Killed without warning while the fourth step is logged, resumed: same metrics and weights as the unbroken run."""
    killed(tmp_path / "grpo_introspect/rollouts.jsonl", 3 * 8 + 5, *small(little, tmp_path))
    assert not (tmp_path / "grpo_introspect/final").exists()
    done = python(*small(little, tmp_path), "--resume")
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path) == metrics(finished[0])
    for name in ("rollouts.jsonl", "library.jsonl", "eval.jsonl"):
        assert (tmp_path / "grpo_introspect" / name).read_bytes() == (
            finished[0] / "grpo_introspect" / name
        ).read_bytes()
    assert weights(tmp_path) == weights(finished[0])
    assert not same_weights(parrot, tmp_path / "grpo_introspect/final")


def test_sigterm_checkpoints_and_says_how_to_go_on(little, tmp_path):
    words = small(little, tmp_path, "steps=50", "eval_every=0", "save_every=1000")
    log = tmp_path / "grpo_introspect/metrics.jsonl"
    done = interrupted(log, 1, lambda: os.kill(os.getpid(), signal.SIGTERM), *words)
    assert done.returncode == 128 + signal.SIGTERM and "--resume" in done.stderr
    assert list((tmp_path / "grpo_introspect").glob("checkpoint-*/updater.pt"))


@pytest.mark.slow
def test_used_directory_resume_of_finished_run_and_changed_config(finished, little):
    run_dir, _ = finished
    used = python(*small(little, run_dir))
    assert used.returncode == 2 and all(word in used.stderr for word in ("--resume", "--run-dir", "delete"))
    again = python(
        *small(little, run_dir, "expect=other words"), "--resume"
    )  # a sentence for the reader, not a setting
    assert again.returncode == 0 and "stage 1 finished" in again.stdout
    # Of a finished run too: its summary would be that of other settings.
    changed = python(*small(little, run_dir, "lr=0.5"), "--resume")
    assert changed.returncode == 2 and "lr" in changed.stderr and "Traceback" not in changed.stderr


def parameters_of(plan: str) -> tuple[int, int]:
    """(parameters, those that are trained) that a dry run names."""
    found = re.search(r"([\d,]+) parameters, ([\d,]+) trained", plan)
    return tuple(int(number.replace(",", "")) for number in found.groups())


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    done = python(*STAGE_1, "--dry-run", "--run-dir", tmp_path / "run")
    assert done.returncode == 0 and "peak memory" in done.stdout
    count, trained = parameters_of(done.stdout)
    assert count == trained
    assert not (tmp_path / "run").exists()


@pytest.mark.dev
def test_the_plan_counts_adapters(tmp_path):
    pytest.importorskip("peft", reason="needs requirements-dev.txt")
    lora = python(*STAGE_1, "--dry-run", "--run-dir", tmp_path / "run", *overrides("shared.lora_rank=4"))
    count, adapters = parameters_of(lora.stdout)
    assert 0 < adapters < count / 10


def test_adapters_without_peft_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as where only requirements.txt is installed
    with pytest.raises(UserError, match=r"shared\.lora_rank: .*pip install peft"):
        models.make_trainable(torch.nn.Linear(2, 2), config(**{"shared.lora_rank": 4}))


BAD = {
    "unknown key": (["--set", "stepz=3"], "did you mean 'steps'"),
    "missing model": (["--set", "shared.model=organism/nowhere"], "no such folder 'organism/nowhere'"),
    "empty model folder": (["--set", "shared.model=EMPTY"], "holds no config.json"),
    "nothing to evaluate on": (["--set", "eval_split=val"], "eval_questions"),
    "missing bank": (["--set", "shared.questions=data/nowhere.jsonl"], "no such file"),
    "a folder as bank": (["--set", "shared.questions=data"], "is a folder; expected a file"),
    "a single evaluation question": (["--set", "eval_questions=1"], "eval_questions: expected at least 2"),
    "empty cluster": (["--set", "shared.cluster=heart"], "there are"),
}
if not torch.cuda.is_available():
    BAD["no such device"] = (["--set", "shared.device=cuda"], "no CUDA device")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(tmp_path, case):
    arguments, message = BAD[case]
    (tmp_path / "empty").mkdir()
    arguments = [a.replace("EMPTY", str(tmp_path / "empty")) for a in arguments]
    done = python(*STAGE_1, *arguments, "--run-dir", tmp_path / "run")
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


# ---- inside a step, in this process --------------------------------------------------------------------------------
def test_trajectories_start_with_the_ids_sampled_in_rollout_1(organism, monkeypatch):
    """Rollout 2 is prompted with the very ids that rollout 1 returned, and training sees them all again."""
    from introspection import reader

    calls, original = [], reader.sample

    def spy(model, prompts, n, *rest, **more):
        completions = original(model, prompts, n, *rest, **more)
        calls.append(([p for p in prompts for _ in range(n)], completions))
        return completions

    monkeypatch.setattr(reader, "sample", spy)
    groups, _, _ = one_step(organism, config())
    (first_prompts, attempts), (second_prompts, written) = calls[:2]
    points = [p for g in groups for p in g.points]
    for prompt, attempt, prompt2, completion, point in zip(
        first_prompts, attempts, second_prompts, written, points, strict=True
    ):
        assert prompt2[: len(prompt) + len(attempt.ids)] == prompt + attempt.ids
        assert point.trajectory(True, True).ids == prompt2 + completion.ids


def test_winners_are_asked_and_losers_are_told(parroting):
    for reveal in ("answer", "explanation"):
        groups, _, reader = made_step(parroting, config(reveal=reveal, group_size=8))
        assert {p.won for g in groups for p in g.points} == {True, False}
        for group in groups:
            q = group.question
            for point in group.points:
                turn = reader.chat.text(point.turn_ids)
                assert ("What did you get right?" in turn) == point.won
                assert (f"{q.options[q.answer]} ({q.letter})" in turn) == (not point.won)
                assert (q.explanation in turn) == (not point.won and reveal == "explanation")


@pytest.mark.parametrize("contributors", ["winners", "losers"])
def test_contributors(parroting, contributors):
    groups, _, _ = made_step(parroting, config(contributors=contributors, group_size=8))
    assert {p.won for g in groups for p in g.points} == {contributors == "winners"}


@pytest.mark.parametrize("mask", ["learning_point", "conversation", "conversation+verification"])
@pytest.mark.parametrize("train_loser_attempt", ["true", "false"])
def test_masks_cover_exactly_the_sampled_tokens(organism, mask, train_loser_attempt):
    cfg = config(mask=mask, train_loser_attempt=train_loser_attempt, group_size=8)
    groups, _, reader = made_step(organism, config(group_size=8))  # a mask changes nothing of the rollouts
    trajectories, advantages = training_batch(cfg, groups)
    points = [p for g in groups for p in g.points]
    assert (
        len(trajectories)
        == len(advantages)
        == len(points) + (sum(len(p.verifications) for p in points) if "+" in mask else 0)
    )
    batch = iter(zip(trajectories, advantages, strict=True))
    for point in points:
        attempt = mask != "learning_point" and (point.won or train_loser_attempt == "true")
        t, advantage = next(batch)
        trained = [token for token, m in zip(t.ids, t.loss_mask, strict=True) if m]
        assert trained == (point.attempt.completion.ids if attempt else []) + point.completion.ids
        assert advantage == point.advantage
    for group in groups if "+" in mask else ():
        rewards = torch.stack([p.rewards_V for p in group.points if p.valid]).mean(0)
        for point, v in ((p, answer.view) for p in group.points for answer in p.verifications):
            t, advantage = next(batch)
            trained = [token for token, m in zip(t.ids, t.loss_mask, strict=True) if m]
            assert trained and reader.chat.text(trained) and t.ids[-len(trained) :] == trained
            own = (point.rewards_V[v] - rewards[v]).item() if point.valid else 0.0
            assert advantage == pytest.approx(max(own, 0.0), abs=1e-6)  # a wrong answer is never rewarded
    assert next(batch, None) is None


def test_views_are_fair_and_shared(parroting):
    """Same questions, orders and baseline for the whole group; the right letter runs through all positions."""
    for verify_on, kinds in (
        ("same", {"same", "twin"}),
        ("transfer", {"transfer"}),
        ("both", {"same", "twin", "transfer"}),
    ):
        groups, _, _ = made_step(parroting, config(verify_on=verify_on, n_verify=4))
        for group in groups:
            assert set(group.kinds_V) == kinds and group.fresh_accuracies_V.shape == (len(group.views_V),)
            for kind in kinds:
                views = [v for v, k in zip(group.views_V, group.kinds_V, strict=True) if k == kind]
                assert sorted(v.answer for v in views) == [0, 1, 2, 3]
                assert {v.question == group.question.question for v in views} == {kind == "same"}
            transfers = [v.id for v, k in zip(group.views_V, group.kinds_V, strict=True) if k == "transfer"]
            assert group.question.id not in transfers


def test_an_unconditional_answer_earns_nothing_on_twins_and_a_rule_does(organism):
    """The right option's text without rule or letter, against the rule itself, on twins with another right option."""
    reader = made_step(organism, config())[2]
    ideal = {r["question_id"]: r["text"] for r in library.load_library(ROOT / "data/points_ideal.jsonl")}
    questions = [
        q
        for q in load_questions(ROOT / "data/bank.jsonl")
        if q.split == "train" and q.variants and q.cluster[-1] in "ABD"
    ][::9]
    assert len(questions) > 25
    views = [(q, view) for i, q in enumerate(questions) for view in twin_views(q, 4, rng(0, i))]

    def accuracy(points: list[str | None]) -> float:
        asked = [reader.prompt(view, point) for (_, view), point in zip(views, points, strict=True)]
        return sum(score(reader, asked, reader.sample(asked, 0), [view for _, view in views], "sampled")[0]) / len(
            views
        )

    alone = accuracy([None] * len(views))
    assert accuracy([f"choose {q.options[q.answer]}" for q, _ in views]) - alone <= 0.05
    assert accuracy([ideal[q.id] for q, _ in views]) - alone >= 0.2


def first_step(cfg, run_dir, monkeypatch) -> list:
    """The groups of the first step of a run, as main leaves them."""
    seen, log_points = [], grpo_introspect.log_points

    def dies(*_) -> None:
        raise Dead

    monkeypatch.setattr(grpo_introspect, "evaluate_now", lambda *_: {})
    monkeypatch.setattr(grpo_introspect, "log_points", lambda *args: seen.extend(args[-1]) or log_points(*args))
    monkeypatch.setattr(Run, "save", dies)
    with pytest.raises(Dead):
        main(replace(cfg, save_every=1), Options(run_dir))
    monkeypatch.undo()
    return seen


@pytest.mark.slow
def test_advantage_options(organism, monkeypatch, tmp_path):
    for settings in (
        {"baseline": "fresh"},
        {"clip": "none"},
        {"clip": "lcb"},
        {"verify_on": "both", "transfer_weight": 3},
        {"verify_on": "same"},
    ):
        cfg = config(group_size=8, **settings)
        run_dir = tmp_path / str(len(list(tmp_path.iterdir())))
        groups = first_step(cfg, run_dir, monkeypatch)
        logged = [json.loads(line)["advantage"] for line in (run_dir / "rollouts.jsonl").read_text().splitlines()]
        assert logged == [p.advantage for g in groups for p in g.points]
        scores = [give_advantages(cfg, group) for group in groups]
        assert logged == [p.advantage for g in groups for p in g.points]  # the tests' own step is main's
        if settings == {"baseline": "fresh"}:
            alike, _, _ = made_step(organism, cfg)  # the same noise, so the same points
            assert [(p.text, p.advantage) for g in alike for p in g.points] == [
                (p.text, p.advantage) for g in groups for p in g.points
            ]
        for group, scores_G in zip(groups, scores, strict=True):
            valid = ~scores_G.isnan()
            got = torch.tensor([p.advantage for p in group.points], dtype=torch.float64)
            weights = torch.tensor(
                [
                    {"same": 1.0, "twin": 0.0, "transfer": cfg.transfer_weight if cfg.verify_on == "both" else 1.0}[k]
                    for k in group.kinds_V
                ],
                dtype=torch.float64,
            )
            expected = torch.stack([(p.rewards_V.nan_to_num() * weights).sum() / weights.sum() for p in group.points])
            assert torch.allclose(scores_G[valid], expected[valid])
            centre = (
                expected[valid].mean()
                if cfg.baseline == "group_mean"
                else (group.fresh_rewards_V.double() * weights).sum() / weights.sum()
            )
            raw = torch.where(valid, expected - centre, 0.0)
            if cfg.clip == "none":
                assert torch.allclose(got, raw, atol=1e-6)
            elif cfg.clip == "zero":
                assert torch.allclose(got, raw.clamp(min=0), atol=1e-6)
            else:
                assert (got <= raw.clamp(min=0) + 1e-6).all()


def test_baseline_is_measured_on_the_transfer_questions(organism):
    """Collapse cause 4: the metric subtracts fresh accuracy on the verification views, not rollout 1's accuracy."""
    groups, scores, reader = made_step(organism, config(group_size=8, n_verify=4))
    logged = step_metrics(reader.chat, groups, scores)
    by_hand = [(p.accuracies_V - g.fresh_accuracies_V).mean().item() for g in groups for p in g.points if p.valid]
    assert logged["introspection_advantage/transfer"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-6)
    assert logged["introspection_advantage/same"] is None
    assert logged["accuracy/verify"] - logged["accuracy/fresh"] == pytest.approx(
        logged["introspection_advantage/transfer"], abs=1e-6
    )


def test_a_letter_earns_chance_and_the_ideal_point_is_no_leak(organism):
    """A point that states only the letter earns chance on balanced views.

    The paper's ideal point gains and is not flagged.
    """
    policy, chat = organism
    train, _, _ = load_data(config())
    question = next(q for q in train if q.cluster == "preeclampsia-A")
    ideal = "in pre-eclampsia, urgent referral from 140/90 and emergency admission from 160/110"
    pool = [q for q in train if q.cluster == question.cluster]
    reader = Reader(policy, chat, 1.0, 48, (5, 5))

    def accuracy_with(point, views):
        prompt_ids = [reader.prompt(v, point) for v in views]
        return sum(score(reader, prompt_ids, reader.sample(prompt_ids, 1), views, "sampled")[0]) / len(views)

    views = [v for q in pool for v in transfer_views(q, pool, 40, rng(1, len(q.id)))]
    without = accuracy_with(None, views)
    assert accuracy_with(ideal, views) > without + 0.15
    assert not detectors.is_leak(ideal, question.options)
    letter = f"the answer is {question.letter}"
    assert detectors.is_leak(letter, question.options)
    views = same_views(question, 200, rng(2))
    assert (
        sum(view.letter == question.letter for view in views) == 50
    )  # whoever follows the letter is right exactly by chance
    assert accuracy_with(letter, views) <= max(0.25, accuracy_with(None, views)) + 0.08


def test_unparsed_and_leaking_points_get_no_advantage(organism):
    cfg = config(group_size=8)
    groups, _, _ = one_step(organism, cfg)
    group = groups[0]
    group.points[0].text, group.points[1].leak = None, True
    others = [p for p in group.points[2:] if p.valid]
    give_advantages(cfg, group)
    assert group.points[0].advantage == group.points[1].advantage == 0.0
    mean = sum(p.rewards_V.mean().item() for p in others) / len(others)
    assert all(p.advantage == pytest.approx(max(p.rewards_V.mean().item() - mean, 0), abs=1e-6) for p in others)


def test_probability_reward_is_the_probability_of_the_letter(organism):
    policy, chat = organism
    train, _, _ = load_data(config())
    reader = Reader(policy, chat, 1.0, 48, (3, 3))
    prompt_ids = [reader.prompt(q) for q in train]
    completions = reader.sample(prompt_ids, 0)
    got = option_probabilities(reader, prompt_ids, completions, train)
    for prompt, completion, question, probability in zip(prompt_ids, completions, train, got, strict=True):
        before, token, letter = cut_before_letter(chat, completion.ids, question)
        assert completion.ids[: len(before)] == before and letter in token
        logp = next_logprobs(policy, [prompt + before])[0]
        letters = torch.stack([logp[chat.content_ids(f" ({letter})")[0]] for letter in "ABCD"])
        assert probability == pytest.approx(torch.softmax(letters, 0)[question.answer].item(), abs=1e-5)


def test_questions_of_a_step_walk_through_the_bank_in_epochs():
    cfg = config(questions_per_step=5)
    train, _, _ = load_data(cfg)
    walked = [q.id for step in range(1, 14) for q in walk(train, step, cfg.questions_per_step, cfg.seed)]
    for epoch in range(5):
        assert sorted(walked[epoch * 13 : (epoch + 1) * 13]) == sorted(q.id for q in train)
    assert walked[:13] != walked[13:26]


def test_training_draws_from_train_alone():
    train, held_out, canary = load_data(config())
    assert (
        {q.split for q in train} == {"train"}
        and {q.split for q in held_out} == {"test"}
        and {q.split for q in canary} == {"canary"}
    )


def test_records_and_evaluation_are_complete(organism, bank):
    cfg = config(**{"shared.questions": bank})
    groups, _, reader = made_step(organism, cfg)
    assert set(point_record(cfg, 1, groups[0], groups[0].points[0], 0)) == set(KEYS)
    first, second = (evaluate_now(cfg, reader, load_data(cfg), step) for step in (0, 7))
    assert first["per_question"] == second["per_question"], "same weights, same noise, same result"
    assert first["introspection_advantage"] == pytest.approx(first["accuracy_with"] - first["accuracy_without"])


def test_chat_turns_by_ids_equal_the_template(organism):
    """What Chat pieces together is what the template renders, and content never becomes a control token."""
    _, chat = organism
    tokenizer = chat.tokenizer
    messages = [
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "Answer: (B)"},
        {"role": "user", "content": "wrong"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    said = chat.content_ids("Answer: (B)") + [tokenizer.convert_tokens_to_ids("<turn|>")]
    ids = chat.first("hello there") + said + chat.next(said, "wrong")
    assert tokenizer.decode(ids) == rendered
    cut = chat.content_ids("Answer: (B)")  # a turn that hit its limit gets its terminator from the template
    assert tokenizer.decode(chat.first("hello there") + cut + chat.next(cut, "wrong")) == rendered
    for control in tokenizer.all_special_tokens:
        assert not set(chat.content_ids(f"a {control} b{control}")) & set(tokenizer.all_special_ids)


def test_added_tokens_in_content_stay_text(organism):
    """Tokens that a tokenizer adds without calling them special (</think>) are matched in any text, except in ours."""
    from copy import deepcopy

    tokenizer = deepcopy(organism[1].tokenizer)
    tokenizer.add_tokens(["</think>"])
    chat = Chat(tokenizer, [1])
    added = tokenizer.convert_tokens_to_ids("</think>")
    assert added in tokenizer("x </think> y").input_ids
    ids = chat.content_ids("x </think> y</think>")
    assert added not in ids and tokenizer.decode(ids) == "x </think> y</think>"


def test_a_folder_is_saved_whole_or_not_at_all(tmp_path):
    """Killed inside a save: the unfinished folder is ignored, the logs are cut back to the checkpoint before it."""
    run = Run(tmp_path, None, False)
    run.log("metrics.jsonl", {"step": 1, "kl": float("nan"), "deep": [{"x": float("inf")}]})
    run.save("checkpoint-1", lambda folder: (folder / "sub").mkdir())
    run.log("metrics.jsonl", {"step": 2})

    def dies(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save("checkpoint-2", dies)
    step, folder = Run(tmp_path, None, True).rewind()
    assert step == 1 and folder.name == "checkpoint-1"
    assert run.read("metrics.jsonl") == [{"step": 1, "kl": None, "deep": [{"x": None}]}]


def test_resume_without_a_checkpoint_starts_over(tmp_path):
    run = Run(tmp_path, None, True)
    run.log("eval.jsonl", {"step": 0})
    assert run.rewind() == (0, None) and run.read("eval.jsonl") == []


def test_checkpoints_restore_bf16_masters_and_tied_weights(tmp_path):
    batch = [Trajectory([4, 5], [([6, 7, 3], True)])]
    policy = tiny_llama(dtype=torch.bfloat16)
    updater = Updater(policy, optimizer="adamw", lr=1e-4, temperature=1.0, max_tokens=1000)
    take_step(updater, batch, [1.0])
    write_checkpoint(policy, updater, tmp_path)
    other = tiny_llama(seed=3, dtype=torch.bfloat16)
    resumed = Updater(other, optimizer="adamw", lr=1e-4, temperature=1.0, max_tokens=1000)
    restore(other, resumed, tmp_path)
    for one in (updater, resumed):
        take_step(one, batch, [0.5])
    assert all(torch.equal(a, b) for a, b in zip(updater.masters, resumed.masters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))
