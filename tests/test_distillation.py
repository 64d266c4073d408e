"""Self-distillation: divergences against float64 definitions and TRL, per-token weights, what SDPO's teacher reads."""

import math

import pytest
import torch
from conftest import tiny_llama
from test_baselines import arena_of, configured

from baselines import sdpo
from baselines.resd import bound_ratio, rebalance
from baselines.sdpo import Answer, answer, lesson, show
from benchmarks.common import take_step
from common import UserError
from introspection import prompts
from introspection.losses import policy_gradient
from introspection.sampling import Completion, Trajectory
from introspection.teacher import Teacher, divergence, likeliest, logprobs_at, with_tail
from introspection.update import Updater


def pair(n: int = 40, words: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (n, words) of a student and a teacher, float64."""
    torch.manual_seed(seed)
    return tuple(torch.log_softmax(2 * torch.randn(n, words, dtype=torch.float64), -1) for _ in range(2))


# ---- equations -----------------------------------------------------------------------------------------------------
def test_divergences_are_their_definitions():
    student, teacher = pair()
    s, t = student.exp(), teacher.exp()
    assert torch.allclose(divergence(student, teacher, 0.0), (t * (t / s).log()).sum(-1))
    assert torch.allclose(divergence(student, teacher, 1.0), (s * (s / t).log()).sum(-1))
    for alpha in (0.2, 0.5, 0.9):
        m = (1 - alpha) * s + alpha * t
        defined = (1 - alpha) * (s * (s / m).log()).sum(-1) + alpha * (t * (t / m).log()).sum(-1)
        assert torch.allclose(divergence(student, teacher, alpha), defined)
    middle = divergence(student, teacher, 0.5)
    assert (
        torch.allclose(middle, divergence(teacher, student, 0.5))
        and (middle >= 0).all()
        and (middle <= math.log(2)).all()
    )
    far = torch.tensor([[0.0, -60.0]], dtype=torch.float64)
    assert divergence(far, far.flip(-1), 0.5).item() == pytest.approx(math.log(2), abs=1e-9)


def test_the_tail_is_what_is_left():
    student, teacher = pair()
    kept = with_tail(student[:, :4])
    assert torch.allclose(kept.exp().sum(-1), torch.ones(40, dtype=torch.float64))
    assert torch.allclose(kept[:, 4].exp(), student[:, 4:].exp().sum(-1))
    assert torch.allclose(with_tail(student[:, :5]), student)  # one word is left: nothing is lost
    for alpha in (0.0, 0.5, 1.0):  # putting words together never moves distributions apart
        assert (divergence(kept, with_tail(teacher[:, :4]), alpha) <= divergence(student, teacher, alpha) + 1e-12).all()
    assert torch.isfinite(with_tail(student)).all()  # no word is left


def test_resd_equation_1():
    """pi f(clip(tau)) with tau = teacher / student, for the three named f (Resd, Eq. 1)."""
    student, teacher = pair()
    tau = (teacher - student).exp()
    for low, high in ((0.0, 0.0), (0.2, 0.0), (0.2, 5.0)):
        clipped = tau.clamp(min=low or None, max=high or None) if low or high else tau
        said = bound_ratio(student, teacher, low, high)
        f = {
            0.0: clipped * clipped.log(), 1.0: -clipped.log(),
            0.5: clipped / 2 * clipped.log() - (clipped + 1) / 2 * ((clipped + 1) / 2).log(),
        }  # fmt: skip
        for alpha, values in f.items():
            assert torch.allclose(divergence(student, said, alpha), (student.exp() * values).sum(-1)), (
                alpha,
                low,
                high,
            )
    student.requires_grad_()
    assert not bound_ratio(student, teacher, 0.2, 5.0).requires_grad  # no gradient flows through the bound


def test_rebalancing_weights_of_the_source():
    for wins, right, wrong in ((1, 16, 0.516), (4, 4, 0.571), (16, 1, 1)):
        weights = rebalance(torch.tensor([1.0] * wins + [0.0] * (32 - wins)))
        assert weights[0].item() == pytest.approx(right, abs=0.01) and weights[-1].item() == pytest.approx(
            wrong, abs=1e-3
        )
        assert weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert (
        rebalance(torch.zeros(1)).item() == rebalance(torch.ones(1)).item() == 1
    )  # where the bounds of the share would cross
    assert torch.isfinite(rebalance(torch.zeros(8))).all() and torch.isfinite(rebalance(torch.ones(8))).all()


def test_the_sampled_form_is_the_reverse_kl_gradient_in_expectation():
    logits = torch.tensor([0.3, -1.2, 0.7, 0.1], dtype=torch.float64, requires_grad=True)
    teacher = torch.log_softmax(torch.tensor([1.0, 0.2, -0.5, 0.4], dtype=torch.float64), 0)
    student = torch.log_softmax(logits, 0)
    (full,) = torch.autograd.grad(divergence(student[None], teacher[None], 1.0).sum(), logits, retain_graph=True)
    advantages = (teacher - student).detach()
    each = [
        torch.autograd.grad(policy_gradient(student[[k]], advantages[[k]], 1.0), logits, retain_graph=True)[0]
        for k in range(4)
    ]
    expected = sum(p * g for p, g in zip(student.exp().detach(), each, strict=True))
    assert torch.allclose(expected, full, atol=1e-12)


@pytest.mark.dev
def test_trl_computes_the_same():
    """On the same tensors all forms agree; TRL's defaults differ from the source's."""
    pytest.importorskip("trl", reason="requirements-dev.txt")
    loss = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    student, teacher = pair()
    for alpha in (0.0, 0.3, 0.5, 1.0):
        assert torch.allclose(divergence(student, teacher, alpha), loss.compute_divergence(student, teacher, alpha))
    assert torch.allclose(with_tail(student[:, :3]), loss.add_tail_bucket(student[:, :3]))
    ids = torch.randint(0, 6, (40,))
    logits = student.clone().requires_grad_()
    loss.compute_sampled_token_self_distillation_loss(
        logits[None], teacher[None], ids[None], distillation_alpha=1.0
    ).sum().backward()
    mine = student.clone().requires_grad_()
    taken = torch.log_softmax(mine, -1).gather(1, ids[:, None])[:, 0]
    policy_gradient(taken, (teacher.gather(1, ids[:, None])[:, 0] - taken).detach(), 1.0).backward()
    assert torch.allclose(mine.grad, logits.grad)


# ---- machinery -----------------------------------------------------------------------------------------------------
def conversations() -> list[Trajectory]:
    """Two continuations of one prompt, which are packed, and a conversation with a turn that is not trained."""
    return [
        Trajectory([4, 5, 6], [([7, 8, 3], True)]), Trajectory([4, 5, 6], [([9, 10, 11, 12], True)]),
        Trajectory([13, 14], [([15, 16], True), ([17, 18, 19], False), ([20, 3], True)]),
    ]  # fmt: skip


def logprobs_of(model, trajectory: Trajectory) -> torch.Tensor:
    """(T, V) at the trained places, without packing or chunks."""
    ids, mask = trajectory.ids, trajectory.loss_mask
    places = [k - 1 for k in range(len(ids)) if mask[k]]
    return torch.log_softmax(model(torch.tensor([ids], device=model.device)).logits[0, places].float(), -1)


def test_what_models_say_at_trained_places(model):
    trajectories = conversations()
    found = likeliest(model, trajectories, 4, 1.0, 1000)
    said = logprobs_at(model, trajectories, found, 1.0, 1000)
    for trajectory, ids, logprobs in zip(trajectories, found, said, strict=True):
        every = logprobs_of(model, trajectory)
        top = every.topk(4)
        assert torch.equal(ids, top.indices) and torch.allclose(logprobs, top.values, atol=1e-5)


def test_the_gradient_towards_a_teacher_is_that_of_its_definition(model):
    trajectories, other = conversations(), tiny_llama(seed=1)
    ids = likeliest(model, trajectories, 5, 1.0, 1000)
    told = logprobs_at(other, trajectories, ids, 1.0, 1000)

    def distance(student, teacher):
        return divergence(with_tail(student), with_tail(teacher), 0.5)

    weights = [torch.rand(len(i)) for i in ids]
    losses = [
        w * distance(logprobs_of(model, t).gather(1, i), said)
        for t, i, said, w in zip(trajectories, ids, told, weights, strict=True)
    ]
    expected = torch.autograd.grad(torch.cat(losses).sum() / 11, list(model.parameters()))
    updater, seen = Updater(model, optimizer="sgd", lr=1e-3, temperature=1.0, max_tokens=1000), []
    updater._clear_gradients = lambda: seen.append([p.grad.clone() for p in updater.parameters])
    take_step(updater, trajectories, weights, Teacher(ids, told, distance), max_grad_norm=1e9)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(seen[-1], expected, strict=True))


def test_advantages_per_token_are_those_of_the_tokens(model):
    trajectories, updater = conversations(), Updater(model, optimizer="sgd", lr=1e-3, temperature=1.0, max_tokens=1000)
    seen = []
    updater._clear_gradients = lambda: (
        seen.append([p.grad.clone() for p in updater.parameters]),
        [setattr(p, "grad", None) for p in updater.parameters],
    )
    advantages = [torch.tensor([1.0, 0.0, -0.5]), torch.zeros(4), torch.tensor([0.0, 2.0, 1.0, -1.0])]
    losses = [
        -(
            a
            * logprobs_of(model, t).gather(
                1, torch.tensor([k for k, m in zip(t.ids, t.loss_mask, strict=True) if m])[:, None]
            )[:, 0]
        ).sum()
        for t, a in zip(trajectories, advantages, strict=True)
    ]
    expected = torch.autograd.grad(sum(losses) / 11, list(model.parameters()))
    updater.optimizer.step = lambda: None
    take_step(updater, trajectories, advantages, max_grad_norm=1e9)
    take_step(updater, trajectories, [0.5, 0.0, -1.0], max_grad_norm=1e9)
    take_step(updater, trajectories, [torch.full((3,), 0.5), torch.zeros(4), torch.full((4,), -1.0)], max_grad_norm=1e9)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(seen[0], expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen[1], seen[2], strict=True))


# ---- SDPO ----------------------------------------------------------------------------------------------------------
def group(arena, outcomes: list[bool]) -> list[Answer]:
    problem = arena.train[0]
    said = arena.chat.content_ids("Answer: something (A)")
    return [
        Answer(problem, [2], Completion([*said[:-1], 5 + i], [-1.0] * len(said), True), right)
        for i, right in enumerate(outcomes)
    ]


def test_what_the_teacher_reads(tmp_path):
    arena = arena_of(sdpo, "sdpo", tmp_path, "shared.cluster=kidney-A", "reveal=explanation")
    problem, cfg = arena.train[0], arena.cfg
    lone, lost = group(arena, [True, False]), group(arena, [False, False])
    show(cfg, arena, lone)
    show(cfg, arena, lost)
    assert lone[0].shown is None  # the only right answer has no other one to learn from
    assert arena.chat.text(lone[0].completion.ids) in lone[1].shown and problem.explanation not in lone[1].shown
    assert lone[1].shown.startswith(prompts.FEEDBACK.split("{")[0])  # words that the bundled model has read
    assert all(problem.explanation in a.shown and f"({problem.letter})" in a.shown for a in lost)
    both = group(arena, [True, False, True])
    show(cfg, arena, both)
    assert (
        arena.chat.text(both[2].completion.ids) in both[0].shown
        and arena.chat.text(both[0].completion.ids) in both[2].shown
    )
    own = configured(sdpo, "sdpo", "own_success=true", "reveal=nothing")
    alone, silent = group(arena, [True, False]), group(arena, [False])
    show(own, arena, alone)
    show(own, arena, silent)
    assert arena.chat.text(alone[0].completion.ids) in alone[0].shown and silent[0].shown is None
    beside = group(arena, [True, False])
    show(configured(sdpo, "sdpo", "feedback_with_solution=true", "reveal=explanation"), arena, beside)
    assert problem.explanation in beside[1].shown and prompts.PEER.split("{")[0] in beside[1].shown


@pytest.mark.parametrize("form", ["topk", "sampled"])
def test_the_policy_moves_towards_its_teacher(tmp_path, form):
    """One step lowers the divergence on the very tokens that were taught, and the teacher follows by its rate."""
    arena = arena_of(
        sdpo,
        "sdpo",
        tmp_path,
        "shared.cluster=kidney-A",
        f"form={form}",
        "alpha=1",
        "reveal=explanation",
        "lr=1e-4",
        "ema=0.25",
    )
    cfg, answers = arena.cfg, []
    arena.keep_average()
    answers = answer(cfg, arena, arena.train[:4])
    for k in range(0, len(answers), cfg.group_size):
        show(cfg, arena, answers[k : k + cfg.group_size])
    taught = [a for a in answers if a.shown is not None]
    students = [Trajectory(a.prompt_ids, [(a.completion.ids, True)]) for a in taught]
    teachers = [Trajectory(arena.chat.first(a.problem.turn + a.shown), [(a.completion.ids, True)]) for a in taught]

    def distance() -> float:
        ids = [torch.arange(2048).expand(len(a.completion.ids), -1) for a in taught]
        mine, said = (
            logprobs_at(arena.policy, students, ids, 1.0, 4096),
            logprobs_at(arena.teacher, teachers, ids, 1.0, 4096),
        )
        return torch.cat([divergence(a, b, 1.0) for a, b in zip(mine, said, strict=True)]).mean().item()

    before, start = distance(), {name: p.clone() for name, p in arena.averaged.items()}
    for _ in range(3):
        take_step(arena.updater, students, *lesson(cfg, arena, students, teachers, [a.completion for a in taught]))
    assert distance() < 0.99 * before
    arena.follow(cfg.ema)
    for name, parameter in arena.policy.named_parameters():
        assert torch.allclose(arena.averaged[name], 0.75 * start[name] + 0.25 * parameter, atol=1e-6)


def test_importance_weights_are_clipped_ratios(tmp_path):
    arena = arena_of(
        sdpo, "sdpo", tmp_path, "shared.cluster=kidney-A", "updates=2", "is_clip=1.5", "reveal=explanation"
    )
    arena.keep_average()
    cfg = arena.cfg
    answers = answer(cfg, arena, arena.train[:1])
    completion = answers[0].completion
    student = Trajectory(answers[0].prompt_ids, [(completion.ids, True)])
    (weights,), teacher = lesson(cfg, arena, [student], [student], [completion])
    assert teacher is not None and torch.allclose(weights, torch.ones(len(completion.ids)), atol=1e-4)  # on policy
    stale = Completion(
        completion.ids, [p - 3.0 if i == 0 else p + 1.0 for i, p in enumerate(completion.logprobs)], True
    )
    (weights,), _ = lesson(cfg, arena, [student], [student], [stale])
    assert weights[0].item() == 1.5 and torch.allclose(
        weights[1:], torch.full((len(weights) - 1,), math.exp(-1)), atol=1e-4
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tail", [True, False])
def test_the_teacher_is_compared_as_configured(tmp_path, alpha, tail):
    arena = arena_of(
        sdpo, "sdpo", tmp_path, "shared.cluster=kidney-A", f"alpha={alpha}", f"tail={str(tail).lower()}", "top_k=7"
    )
    arena.keep_average()
    answers = answer(arena.cfg, arena, arena.train[:1])
    trajectories = [Trajectory(a.prompt_ids, [(a.completion.ids, True)]) for a in answers]
    weights, teacher = lesson(arena.cfg, arena, trajectories, trajectories, [a.completion for a in answers])
    assert all((w == 1).all() for w in weights) and {i.shape[1] for i in teacher.ids} == {7}
    student, other = (logprobs[:, :3] for logprobs in pair())  # three of six words
    parts = [(p.exp(), 1 - p.exp().sum(-1, keepdim=True)) for p in (student, other)]
    s, t = (torch.cat(part, -1) if tail else part[0] / part[0].sum(-1, keepdim=True) for part in parts)
    m = (1 - alpha) * s + alpha * t
    middle = (1 - alpha) * (s * (s / m).log()).sum(-1) + alpha * (t * (t / m).log()).sum(-1)
    expected = {0.0: (t * (t / s).log()).sum(-1), 0.3: middle, 1.0: (s * (s / t).log()).sum(-1)}[alpha]
    assert torch.allclose(teacher.divergence(student, other), expected)


def test_a_teacher_and_a_kl_to_the_start_exclude_each_other(model):
    updater = Updater(
        model, optimizer="sgd", lr=1e-3, temperature=1.0, max_tokens=1000, kl_coef=0.1, ref_policy=tiny_llama()
    )
    with pytest.raises(ValueError, match="exclude"):
        take_step(
            updater,
            conversations()[:1],
            [1.0],
            Teacher([torch.zeros(3, 2, dtype=torch.long)], [torch.zeros(3, 2)], lambda s, t: s[:, 0]),
        )


def test_looking_up_survives_running_out_of_memory(model, monkeypatch):
    from introspection import logprobs

    trajectories, original = conversations(), logprobs.collate
    expected = likeliest(model, trajectories, 3, 1.0, 1000)
    monkeypatch.setattr(
        logprobs,
        "collate",
        lambda t, rows, device: (
            (_ for _ in ()).throw(torch.OutOfMemoryError())
            if len(rows) * len(rows[0]) > 1
            else original(t, rows, device)
        ),
    )
    assert all(torch.equal(a, b) for a, b in zip(likeliest(model, trajectories, 3, 1.0, 20), expected, strict=True))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("is_clip=0", "is_clip"),
        ("form=sampled", "alpha"),
        ("alpha=2", "alpha"),
        ("kl_coef=0.1", "kl_coef"),
        ("top_k=0", "top_k"),
    ],
)
def test_impossible_settings_are_refused(setting, said):
    with pytest.raises(UserError, match=said):
        configured(sdpo, "sdpo", setting)
    with pytest.raises(UserError, match="nothing to show"):
        configured(sdpo, "sdpo", "reveal=nothing", "group_size=1")
