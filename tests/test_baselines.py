"""The rivals: equations against closed forms, float64 autograd and TRL, what is trained, and the command lines."""

import json
import shutil
from collections import defaultdict
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from commands import one_process, overrides, python, same_weights

from baselines import grpo, reflect_retry, resd, sdpo, sft, ssd
from baselines.arena import Arena, load_problems, tokens_trained
from baselines.grpo import penalties, rollouts, training_batch
from common import RIVALS, ROOT, Options, UserError, load_config, rng
from introspection import prompts
from introspection.losses import group_advantages, policy_gradient
from introspection.reader import Reader
from introspection.sampling import Completion, Trajectory, inverse_cdf
from tasks import countdown, function_calling, manufactoria

SMALL = ["steps=2", "eval_problems=8", "problems_per_step=2", "n_eval=2", "save_every=1"]


def configured(module, stage: str, *overrides: str):
    return load_config(module.Config, stage, ROOT / "configs/bank.yaml", [*SMALL, *overrides])


def arena_of(module, stage: str, tmp_path, *overrides: str) -> Arena:
    cfg = configured(module, stage, "eval_problems=1", "n_eval=1", *overrides)
    return Arena(cfg, Options(tmp_path / stage), stage, reference=True)


# ---- equations -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "wins", "high", "low"), [(8, 1, 2.474, -0.353), (8, 4, 0.935, -0.935), (32, 1, 5.477, -0.177)]
)
def test_group_advantages_of_binary_rewards(size, wins, high, low):
    rewards = torch.tensor([[1.0] * wins + [0.0] * (size - wins)], dtype=torch.float64)
    scaled, centred = group_advantages(rewards, True)[0], group_advantages(rewards, False)[0]
    assert scaled[0].item() == pytest.approx(high, abs=1e-3) and scaled[-1].item() == pytest.approx(low, abs=1e-3)
    assert torch.allclose(centred, rewards[0] - wins / size)
    assert (
        group_advantages(torch.full((2, size), 0.3, dtype=torch.float64), True) == 0
    ).all()  # exactly, not a rounding error


def ragged() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log-probabilities, mask, advantages) of 6 answers of different lengths."""
    torch.manual_seed(0)
    logprobs = -torch.rand(6, 7, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5, 2, 6])[:, None]
    return logprobs.requires_grad_(), mask, torch.randn(6, dtype=torch.float64)


def our_gradient(reduction: str, max_length: int) -> torch.Tensor:
    logprobs, mask, advantages = ragged()
    lengths = mask.sum(1).double()
    weights = grpo.reduce_loss(advantages, lengths, reduction, len(lengths), max_length)
    policy_gradient(logprobs[mask], weights.repeat_interleave(mask.sum(1)), lengths.sum().item()).backward()
    return logprobs.grad


@pytest.mark.parametrize("reduction", ["sequence", "token", "constant"])
def test_reductions_are_their_definitions(reduction):
    logprobs, mask, advantages = ragged()
    losses = -advantages[:, None] * logprobs * mask
    defined = {
        "sequence": (losses.sum(1) / mask.sum(1)).mean(),
        "token": losses.sum() / mask.sum(),
        "constant": losses.sum() / (6 * 9),
    }
    defined[reduction].backward()
    assert torch.allclose(our_gradient(reduction, 9), logprobs.grad, atol=1e-12)


@pytest.mark.dev
@pytest.mark.parametrize(("reduction", "loss_type"), [("sequence", "grpo"), ("token", "dapo"), ("constant", "dr_grpo")])
def test_reductions_are_those_of_trl(reduction, loss_type):
    """TRL's own loss function on the same tensors, on policy."""
    trl = pytest.importorskip("trl", reason="requirements-dev.txt")
    logprobs, mask, advantages = ragged()
    trainer = MagicMock()
    trainer.loss_type, trainer.beta, trainer.top_entropy_quantile, trainer.off_policy_mask_threshold = (
        loss_type,
        0.0,
        1.0,
        None,
    )
    trainer.importance_sampling_level, trainer.epsilon_low, trainer.epsilon_high, trainer.args.delta = (
        "token",
        0.2,
        0.2,
        None,
    )
    trainer.use_vllm = trainer.aux_loss_enabled = trainer._entropy_bonus_enabled = False
    trainer.max_completion_length, trainer.current_gradient_accumulation_steps, trainer.args.steps_per_generation = (
        9,
        1,
        1,
    )
    trainer.accelerator.num_processes, trainer._metrics = 1, {"train": defaultdict(list)}
    trainer.accelerator.gather = lambda x: x
    trainer._get_per_token_logps_and_entropies.return_value = (logprobs, torch.zeros_like(logprobs), None)
    inputs = {
        "prompt_ids": torch.zeros(6, 2, dtype=torch.long),
        "prompt_mask": torch.ones(6, 2, dtype=torch.long),
        "completion_ids": torch.zeros(6, 7, dtype=torch.long),
    }
    inputs |= {"completion_mask": mask.long(), "advantages": advantages, "num_items_in_batch": mask.sum()}
    trl.GRPOTrainer._compute_loss(trainer, None, inputs).backward()
    assert torch.allclose(our_gradient(reduction, 9), logprobs.grad, atol=1e-12)


def test_k1_teaches_in_the_reward_and_not_in_the_loss():
    """Exact expectations over a policy on four tokens: grad E[k1 as a loss] = 0, k1 as a reward gives grad KL."""
    theta = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ref = torch.log_softmax(torch.tensor([0.3, -1.0, 0.5, 0.1], dtype=torch.float64), 0)
    logp = torch.log_softmax(theta, 0)
    p, k1 = logp.exp().detach(), logp - ref
    (as_loss,) = torch.autograd.grad((p * k1).sum(), theta, retain_graph=True)
    (as_reward,) = torch.autograd.grad((p * k1.detach() * logp).sum(), theta, retain_graph=True)
    (of_kl,) = torch.autograd.grad((logp.exp() * k1).sum(), theta)
    assert as_loss.abs().max() < 1e-12 and torch.allclose(as_reward, of_kl) and of_kl.abs().max() > 0.01


def test_truncation_keeps_the_likeliest_and_renormalises():
    logp = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64))
    kept = ssd.truncate(logp, 3, 1.0).exp()
    assert torch.allclose(kept[0], torch.tensor([0, 4 / 9, 2 / 9, 3 / 9], dtype=torch.float64))
    assert torch.allclose(ssd.truncate(logp, 0, 0.6).exp()[0], torch.tensor([0, 4 / 7, 0, 3 / 7], dtype=torch.float64))
    assert torch.allclose(ssd.truncate(logp, 0, 0.5).exp()[1], torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    assert torch.allclose(ssd.truncate(logp, 0, 1.0), logp)
    uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    tokens, logprobs = inverse_cdf(logp[:1].repeat(1000, 1), uniform, 1.0, warp=lambda part: ssd.truncate(part, 2, 1.0))
    assert torch.bincount(tokens, minlength=4).tolist() == [0, 571, 0, 429] and torch.allclose(
        logprobs.exp().unique(), torch.tensor([3 / 7, 4 / 7], dtype=torch.float64)
    )


# ---- what is trained -------------------------------------------------------------------------------------------------
def test_grpo_rewards_the_right_answers_and_trains_their_tokens(tmp_path):
    arena = arena_of(grpo, "grpo", tmp_path)
    chains = rollouts(arena.cfg, arena.reader, arena.problems(1))
    assert len(chains) == 2 * arena.cfg.group_size and all(len(c.generations) == 1 for c in chains)
    trajectories, weights = training_batch(arena.cfg, chains, [1.0] * len(chains))
    assert weights == [1.0] * len(chains)  # dapo: as they are
    for chain, t in zip(chains, trajectories, strict=True):
        assert t.prompt_ids == arena.chat.first(chain.problem.turn) and sum(t.loss_mask) == len(chain.answer.ids)
    assert penalties(arena.cfg, arena, chains) == [0.0] * len(chains)


def test_chains_are_cut_summarised_and_share_their_reward(tmp_path):
    arena = arena_of(grpo, "grpo", tmp_path, "max_generations=3", "summary_tokens=6", "loss=dr_grpo", "reward_kl=0.1")
    problems = arena.problems(1) + arena.problems(2)
    limit = (
        max(len(arena.chat.first(p.turn)) for p in problems) + 8
    )  # answers with a rationale are longer than 8 tokens
    arena.cfg.context_limit = limit
    chains = rollouts(arena.cfg, arena.reader, problems)
    cut = [c for c in chains if len(c.generations) > 1]
    assert cut and len(cut) < len(chains)
    for chain in cut:
        for k, (prompt, completion) in enumerate(chain.generations):
            text = arena.chat.text(prompt)
            if k % 2:  # a summary, asked for where the limit cut the answer
                before, answered = chain.generations[k - 1]
                assert (
                    text.rstrip().endswith("model")
                    and prompts.SUMMARISE in text
                    and prompt[: len(before) + len(answered.ids)] == before + answered.ids
                )
                assert len(completion.ids) <= 6
            else:
                assert len(prompt) + len(completion.ids) <= max(limit, len(prompt) + 1) and (
                    "Summary so far" in text
                ) == (k > 0)
        assert chain.answer is chain.generations[-1][1] and len(chain.generations) <= 5
    trajectories, weights = training_batch(arena.cfg, chains, [float(i) for i in range(len(chains))])
    at = 0
    for i, chain in enumerate(chains):
        part = weights[at : at + len(chain.generations)]
        assert part == [part[0]] * len(part) and (part[0] == 0) == (
            i == 0
        )  # one advantage for every generation of a chain
        at += len(chain.generations)
    assert at == len(trajectories)
    with torch.no_grad():
        for parameter in arena.ref_policy.parameters():
            parameter.mul_(1.05)
    assert sum(penalties(arena.cfg, arena, chains)) > 0  # KL to another model


def test_only_the_reflection_is_trained_and_the_answer_is_not_shown(tmp_path):
    arena = arena_of(reflect_retry, "reflect_retry", tmp_path)
    problem = next(p for p in arena.train if p.cluster.endswith("A"))
    attempt = arena.chat.content_ids("Answer: x (Z)") + [arena.chat.end]
    for reflect in (True, False):
        tries = [reflect_retry.open_try(arena.reader, problem, attempt, reflect) for _ in range(4)]
        reflect_retry.try_again(arena.reader, tries, [(i,) for i in range(4)], reflect, 16)
        for one in tries:
            t = one.trajectory()
            trained = [token for token, m in zip(t.ids, t.loss_mask, strict=True) if m]
            assert trained == (one.reflection if reflect else one.second).ids
            assert (
                problem.gold not in arena.chat.text(one.before)
                and (prompts.REFLECT in arena.chat.text(one.before)) == reflect
            )
            assert one.right == problem.grade(arena.chat.text(one.second.ids))
        if reflect:
            assert (
                problem.turn.split("\n")[0] in arena.chat.text(list(tries[0].asked))
                and len({tuple(t.reflection.ids) for t in tries}) > 1
            )


def test_failures_are_wrong_and_different(tmp_path):
    arena = arena_of(reflect_retry, "reflect_retry", tmp_path, "collect=2", "shared.cluster=kidney-A")
    failures, problem_of = reflect_retry.collect(arena.cfg, arena), {p.id: p for p in arena.train}
    assert failures and len({json.dumps(f) for f in failures}) == len(failures)
    assert not any(problem_of[f["problem_id"]].grade(arena.chat.text(f["attempt_ids"])) for f in failures)


def test_tokens_in_the_loss_are_those_with_an_advantage():
    trajectories = [Trajectory([5], [([1] * n, True), ([2], False)]) for n in (3, 4, 5)]
    assert tokens_trained(trajectories, [0.5, 0.0, -0.5], {"skipped_steps": 0}) == 8
    assert tokens_trained(trajectories, [0.5, 0.5, 0.5], {"skipped_steps": 1}) == 0


def test_a_rival_counts_what_it_collects(tmp_path):
    arena = arena_of(reflect_retry, "reflect_retry", tmp_path, "collect=2", "shared.cluster=kidney-A")
    reflect_retry.collect(arena.cfg, arena)
    assert arena.generated > 2 * len(arena.train)


def test_an_answer_is_right_in_training_where_it_is_in_evaluation(tmp_path, monkeypatch):
    """A right answer that was cut off right behind is graded alike by all rivals and by `evaluate`."""
    for module, stage, answers in ((sdpo, "sdpo", sdpo.answer), (resd, "resd", resd.answer)):
        arena = arena_of(module, stage, tmp_path / stage, "group_size=1", "shared.cluster=kidney-A")
        said = Completion(arena.chat.content_ids(arena.train[0].gold), [], False)
        monkeypatch.setattr(Reader, "sample", lambda self, prompts, *rest, said=said, **more: [said] * len(prompts))
        assert answers(arena.cfg, arena, arena.train[:1])[0].right
        monkeypatch.undo()


def test_problems_with_one_id_are_refused(tmp_path):
    """By its id an attempt finds its problem: two files of one generator, joined, would pair it with another one."""
    path = tmp_path / "both.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for seed in (0, 1) for r in countdown.generate(5, 3, 12, seed)))
    with pytest.raises(UserError, match="id 'countdown-0' stands there twice"):
        load_problems(configured(grpo, "grpo", "task=countdown", f"shared.questions={path}"))


def test_clusters_are_of_questions_only():
    with pytest.raises(UserError, match=r"shared\.cluster"):
        load_problems(
            configured(grpo, "grpo", "task=countdown", "shared.questions=data/countdown.jsonl", "shared.cluster=kidney")
        )


def test_ssd_trains_on_answers_whether_right_or_wrong(tmp_path):
    arena = arena_of(ssd, "ssd", tmp_path, "shared.cluster=kidney-A")
    targets = ssd.generate(arena.cfg, arena)
    assert {t["right"] for t in targets} == {True, False} and all(
        t["answer_ids"][-1] in arena.chat.eos_ids for t in targets
    )
    with pytest.raises(UserError, match="train_temperature"):
        configured(ssd, "ssd", "temperature=0.5")


def test_sft_says_the_right_answer_and_corrects_errors_only(tmp_path):
    arena = arena_of(sft, "sft", tmp_path, "shared.cluster=kidney-A")
    assert [t["problem_id"] for t in sft.make_targets(arena.cfg, arena)] == [p.id for p in arena.train]
    told = arena_of(
        sft, "sft", tmp_path / "told", "shared.cluster=kidney-A", "on=corrections", "reveal=explanation", "attempts=2"
    )
    corrected = [t["problem_id"] for t in sft.make_targets(told.cfg, told)]
    assert 0 < len(corrected) < 2 * len(told.train)
    problem = told.train[0]
    assert problem.grade(sft.correction(problem, "answer")) and sft.correction(problem, "explanation").startswith(
        problem.explanation
    )
    assert problem.grade(sft.correction(problem, "explanation"))


# ---- problems --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("task", "records"),
    [
        ("countdown", countdown.generate(60, 3, 12, 0)), ("function_calling", function_calling.generate(60, 0)),
        ("manufactoria", manufactoria.generate(60, 5, 0)),
        ("finer", [{"context": f"Tag the number in report {i}.", "target": f"Revenues, Tag{i}"} for i in range(60)]),
    ],
)  # fmt: skip
def test_gold_answers_are_right_in_every_task(tmp_path, task, records):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    problems = load_problems(configured(grpo, "grpo", f"task={task}", f"shared.questions={path}"))
    assert len(problems) == 60 and all(p.grade(p.gold) and not p.grade("") for p in problems)
    assert all(
        p.feedback("answer", "no idea")
        and p.feedback("nothing") is None
        and "a peer" in p.feedback("nothing", "", "a peer")
        for p in problems
    )
    assert {p.split for p in problems} == {"train", "val", "test"} and all(p.view(None) is p for p in problems)


def test_views_of_questions_move_the_right_letter():
    problem = load_problems(configured(grpo, "grpo"))[0]
    views = [problem.view(rng(i)) for i in range(12)]
    assert len({v.letter for v in views}) > 1 and all(v.grade(v.gold) for v in views)


# ---- command lines ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(parrot, tmp_path_factory):
    """(command, what it said) of a whole run of each rival; a parrot does not heed a teacher."""
    home, heeding = tmp_path_factory.mktemp("rivals"), str(ROOT / "organism/second")
    commands = []
    for stage in RIVALS:
        little = [f"shared.model={heeding if stage in ('sdpo', 'resd') else parrot}", "shared.cluster=kidney-A"]
        words = ["-m", f"baselines.{stage}", "--config", "configs/bank.yaml", "--run-dir", str(home)]
        commands.append(words + overrides(*SMALL, *little))
    return home, dict(zip(RIVALS, zip(commands, one_process(*commands), strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("stage", RIVALS)
def test_a_rival_runs_resumes_and_says_what_is_wrong(finished, tmp_path, stage):
    home, (words, done) = finished[0], finished[1][stage]
    assert done.returncode == 0 and f"{stage} finished" in done.stdout, done.stderr
    folder = home / stage
    assert {"final", "metrics.jsonl", "eval.jsonl", "config.yaml", "checkpoint-2"} <= {p.name for p in folder.iterdir()}
    weights = (folder / "final/model.safetensors").read_bytes()
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert not same_weights(model, folder / "final")
    for name in ("final", "checkpoint-2"):  # as if it had been killed after the first step
        shutil.rmtree(folder / name)
    again = python(*words, "--resume")
    assert again.returncode == 0 and (folder / "final/model.safetensors").read_bytes() == weights
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    steps = [r["step"] for r in map(json.loads, (folder / "eval.jsonl").read_text().splitlines()) if "accuracy" in r]
    assert steps == [0, 2]  # before and after
    rival = [*words[:4], "--run-dir", tmp_path / "other"]
    for bad, said in (
        ("stepss=1", "unknown key"),
        ("eval_splits=dev", "eval_splits"),
        ("problems_per_step=100000", "problems_per_step"),
        ("task=chess", "task"),
    ):
        wrong = python(*rival, *overrides(bad))
        assert wrong.returncode == 2 and said in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.stderr
    assert python(*rival, "--dry-run").returncode == 0
    assert not (tmp_path / "other").exists()
