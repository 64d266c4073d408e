"""update.py: the gradient, its normaliser, its guards, and that weights really move."""

import pytest
import torch
from conftest import tiny_llama

from benchmarks.common import take_step
from common import UserError
from introspection.logprobs import MAX_PACKED, collate, micro_batches, packable, token_logprobs
from introspection.sampling import Trajectory, sample
from introspection.update import Updater


def trajectories(n: int = 6, seed: int = 0) -> list[Trajectory]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        draw = lambda length: torch.randint(4, 32, (length,), generator=generator).tolist()  # noqa: E731
        made.append(Trajectory(draw(3 + i), [(draw(2 + i % 3), i % 2 == 0), (draw(4), False), (draw(1 + i), True)]))
    return made


def gradient(policy, batch, advantages, max_tokens=10**6, kl_coef=0.0, ref_policy=None) -> list[torch.Tensor]:
    """The applied gradient, read off an SGD step of size 1 that nothing clips."""
    before = [p.detach().clone() for p in policy.parameters()]
    take_step(
        Updater(
            policy,
            optimizer="sgd",
            lr=1.0,
            temperature=1.0,
            max_tokens=max_tokens,
            kl_coef=kl_coef,
            ref_policy=ref_policy,
        ),
        batch,
        advantages,
        max_grad_norm=1e9,
    )
    return [b - p.detach() for b, p in zip(before, policy.parameters(), strict=True)]


def test_gradient_equals_reinforce_written_out(model64):
    batch, advantages = trajectories(), [0.5, 0.0, 1.0, -0.25, 0.0, 2.0]
    reference = tiny_llama(dtype=torch.float64)
    normalizer, loss = sum(sum(t.loss_mask) for t in batch), 0.0
    for trajectory, advantage in zip(batch, advantages, strict=True):
        ids = torch.tensor([trajectory.ids])
        logp = torch.log_softmax(reference(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        loss = loss - advantage * (logp * torch.tensor(trajectory.loss_mask[1:])).sum() / normalizer
    loss.backward()
    for got, parameter in zip(gradient(model64, batch, advantages), reference.parameters(), strict=True):
        assert torch.allclose(got, parameter.grad, atol=1e-6)


@pytest.mark.parametrize("kl_coef", [0.0, 0.5])
def test_micro_batches_do_not_change_the_gradient(kl_coef):
    batch, advantages = trajectories(8), [0.5, 0.1, 1.0, 0.3, 0.0, 0.2, 0.7, 0.9]
    ref_policy = tiny_llama(seed=5, dtype=torch.float64)
    results = [
        gradient(tiny_llama(dtype=torch.float64), batch, advantages, tokens, kl_coef, ref_policy)
        for tokens in (1, 70, 10**6)
    ]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 10**6])
def test_what_is_held_has_the_kl_in_the_place_of_what_is_trained(tokens):
    batch, advantages, held = trajectories(), [0.5, 0.0, 1.0, -0.25, 0.0, 2.0], trajectories(5, seed=1)
    policy, ref_policy = tiny_llama(dtype=torch.float64), tiny_llama(seed=5, dtype=torch.float64)
    updater = Updater(
        policy, optimizer="sgd", lr=1.0, temperature=1.0, max_tokens=tokens, kl_coef=0.5, ref_policy=ref_policy
    )
    with pytest.raises(ValueError, match="weight is 0"):
        Updater(policy, optimizer="sgd", lr=1.0, temperature=1.0, max_tokens=9).backward(batch, advantages, held=held)
    updater.backward(batch, advantages, held=held)
    reference = tiny_llama(dtype=torch.float64)

    def logprobs(model, t):
        ids = torch.tensor([t.ids])
        logp = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        return logp[torch.tensor(t.loss_mask[1:], dtype=torch.bool)]

    loss, kl, trained = 0.0, 0.0, sum(sum(t.loss_mask) for t in batch)
    for t, advantage in zip(batch, advantages, strict=True):
        loss = loss - advantage * logprobs(reference, t).sum() / trained
    for t in held:  # sampled by the start policy: E of (pi / ref - 1 - log(pi / ref)) is KL(ref || pi)
        log_ratio = logprobs(reference, t) - logprobs(ref_policy, t).detach()
        kl = kl + (log_ratio.exp() - 1 - log_ratio).sum() / sum(sum(t.loss_mask) for t in held)
    (loss + 0.5 * kl).backward()
    assert updater.kl == pytest.approx(kl.item())
    for master, parameter in zip(updater.masters, reference.parameters(), strict=True):
        assert torch.allclose(master.grad, parameter.grad, atol=1e-6)


def test_bf16_gradients_are_summed_in_fp32():
    """Summed in bf16, the gradient would depend on how the batch is cut."""
    batch, advantages, norms = trajectories(32), [1.0] * 32, []
    for tokens in (1, 10**6):
        policy = tiny_llama(dtype=torch.bfloat16)
        updater = Updater(policy, optimizer="sgd", lr=1e-3, temperature=1.0, max_tokens=tokens)
        before = [m.detach().clone() for m in updater.masters]
        take_step(updater, batch, advantages, max_grad_norm=1e9)
        norms.append(torch.cat([(b - m.detach()).flatten() for b, m in zip(before, updater.masters, strict=True)]))
    assert (norms[0] - norms[1]).norm() < 8e-3 * norms[1].norm()


def test_micro_batches_stay_within_the_budget_and_keep_everything():
    batch = trajectories(20)
    groups = micro_batches(batch, 60, pack=False)
    assert sorted(i for group in groups for row in group for i in row) == list(range(20))
    assert all(len(g) * max(len(batch[i].ids) for (i,) in g) <= 60 or len(g) == 1 for g in groups)


def alike(n: int, prompts: int = 3) -> list[Trajectory]:
    """Trajectories that share a few prompts; some are trained from their first token on."""
    made = trajectories(n)
    for i, trajectory in enumerate(made):
        trajectory.prompt_ids = made[i % prompts].prompt_ids
    return made


def test_packing_gives_the_gradient_of_single_rows(model64):
    batch, advantages = alike(11), [0.5, 0.1, 1.0, 0.3, 0.0, 0.2, 0.7, 0.9, -0.4, 1.0, 0.6]
    packed_rows = [row for group in micro_batches(batch, 10**6, pack=True) for row in group]
    assert len(packed_rows) == 3 and sorted(i for row in packed_rows for i in row) == list(range(11))
    packed = gradient(model64, batch, advantages)
    single = tiny_llama(dtype=torch.float64)
    before = [p.detach().clone() for p in single.parameters()]
    updater = Updater(single, optimizer="sgd", lr=1.0, temperature=1.0, max_tokens=10**6)
    assert updater.pack and packable(single)
    updater.pack = False
    take_step(updater, batch, advantages, max_grad_norm=1e9)
    for got, old, new in zip(packed, before, single.parameters(), strict=True):
        assert torch.allclose(got, old - new.detach(), atol=1e-6)


def test_packed_rows_stay_short():
    batch = [Trajectory([1] * (MAX_PACKED // 2), [([2] * (MAX_PACKED // 4), True)]) for _ in range(5)]
    rows = [row for group in micro_batches(batch, 10**6, pack=True) for row in group]
    assert sorted(len(row) for row in rows) == [1, 2, 2]


def test_zero_advantage_rows_cost_nothing_and_change_nothing(monkeypatch):
    """Collapse cause 6: dropped before the forward pass, yet counted in the normaliser."""
    batch, advantages, seen = trajectories(6), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0], []
    from introspection import update

    original = update.collate
    monkeypatch.setattr(
        update, "collate", lambda kept, rows, device: seen.append(len(kept)) or original(kept, rows, device)
    )
    with_zeros = gradient(tiny_llama(), batch, advantages)
    assert seen == [1]
    alone = gradient(tiny_llama(), [batch[2]], [1.0])
    scale = sum(batch[2].loss_mask) / sum(sum(t.loss_mask) for t in batch)
    for a, b in zip(with_zeros, alone, strict=True):
        assert torch.allclose(
            a, b * scale, atol=1e-6
        )  # fp32: some processors round differently for another number of rows


def test_step_without_any_advantage_leaves_weights_bit_identical(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    updater = Updater(model, optimizer="adamw", lr=0.1, temperature=1.0, max_tokens=1000)
    assert take_step(updater, trajectories(), [0.0] * 6)["skipped_steps"] == 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_only_trained_tokens_carry_gradient(model64):
    """A token outside the mask is input only: its log-probability must not be part of the loss."""
    trajectory = Trajectory([4, 5, 6], [([7, 8], False), ([9], True)])
    with torch.no_grad():
        expected = torch.log_softmax(model64(torch.tensor([trajectory.ids])).logits[0, 4], -1)[9]
        assert token_logprobs(model64, collate([trajectory], [[0]], "cpu"), 1.0).tolist() == pytest.approx(
            [expected.item()], abs=1e-5
        )


def test_scorer_agrees_with_sampler_terminator_included(model):
    """Log-probabilities of the sampler and of the trainer are the same numbers, at a temperature other than 1 too."""
    prompts = [[4, 5, 6, 7], [8, 9]]
    for temperature in (1.0, 0.7):
        completions = sample(model, prompts, 8, 12, temperature, [3], [(0, i) for i in range(16)])
        assert any(c.finished and c.ids[-1] == 3 for c in completions)
        for i, completion in enumerate(completions):
            trajectory = Trajectory(prompts[i // 8], [(completion.ids, True)])
            with torch.no_grad():
                scored = token_logprobs(model, collate([trajectory], [[0]], "cpu"), temperature)
            assert torch.allclose(scored, torch.tensor(completion.logprobs), atol=1e-4)


def test_gradient_is_clipped(model):
    """Collapse cause 3: whatever the advantage, an SGD step moves at most lr * max_grad_norm."""
    before = [p.detach().clone() for p in model.parameters()]
    metrics = take_step(
        Updater(model, optimizer="sgd", lr=0.5, temperature=1.0, max_tokens=10**6),
        trajectories(),
        [1000.0] * 6,
        max_grad_norm=0.1,
    )
    moved = torch.stack([(b - p.detach()).norm() for b, p in zip(before, model.parameters(), strict=True)]).norm()
    assert metrics["grad_norm"] > 0.1 and moved == pytest.approx(0.05, rel=1e-3)


def test_sgd_has_no_momentum(model):
    """Collapse cause 1."""
    updater = Updater(model, optimizer="sgd", lr=0.1, temperature=1.0, max_tokens=10**6)
    take_step(updater, trajectories(), [1.0] * 6)
    after = {k: v.clone() for k, v in model.state_dict().items()}
    take_step(updater, trajectories(), [0.0] * 6)
    assert updater.optimizer.param_groups[0]["momentum"] == 0
    assert all(torch.equal(after[k], v) for k, v in model.state_dict().items())


def test_non_finite_gradient_skips_the_step_and_three_in_a_row_abort(model):
    updater = Updater(model, optimizer="adamw", lr=0.1, temperature=1.0, max_tokens=10**6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(2):
        assert take_step(updater, trajectories(), [float("inf")] * 6)["skipped_steps"] == 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(UserError, match="three steps in a row"):
        take_step(updater, trajectories(), [float("inf")] * 6)


def test_out_of_memory_halves_the_budget_with_the_same_gradient(monkeypatch):
    from introspection import update

    batch, advantages = trajectories(8), [1.0] * 8
    whole = gradient(tiny_llama(), batch, advantages)
    original = update.token_logprobs

    def small_machine(model, batch, *rest):
        if batch.ids.numel() > 100:
            raise torch.OutOfMemoryError
        return original(model, batch, *rest)

    monkeypatch.setattr(update, "token_logprobs", small_machine)
    for a, b in zip(whole, gradient(tiny_llama(), batch, advantages, max_tokens=400), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_bf16_weights_move_through_fp32_masters(optimizer):
    """Small updates that bf16 rounds away accumulate in the master; update_ratio says how much was applied."""
    policy = tiny_llama(dtype=torch.bfloat16)
    updater = Updater(policy, optimizer=optimizer, lr=1e-6, temperature=1.0, max_tokens=10**6)
    assert take_step(updater, trajectories(), [1.0] * 6)["update_ratio"] == pytest.approx(1.0, abs=0.1)
    assert all(m.dtype == torch.float32 for m in updater.masters)
    naive = tiny_llama(dtype=torch.bfloat16)
    updater = Updater(naive, optimizer=optimizer, lr=1e-6, temperature=1.0, max_tokens=10**6)
    updater.masters = updater.parameters  # what happens without masters: the ablation of table T3
    updater.optimizer.param_groups[0]["params"] = updater.parameters
    assert take_step(updater, trajectories(), [1.0] * 6)["update_ratio"] < 0.5


def test_fp32_parameters_are_their_own_masters(model):
    updater = Updater(model, optimizer="adamw", lr=1e-3, temperature=1.0, max_tokens=10**6)
    assert all(m is p for m, p in zip(updater.masters, updater.parameters, strict=True))
    assert take_step(updater, trajectories(), [1.0] * 6)["update_ratio"] == pytest.approx(1.0, abs=1e-2)
    assert take_step(updater, trajectories(), [1.0] * 6)["update_ratio"] == pytest.approx(1.0, abs=1e-2)


def test_updater_state_round_trip_is_bit_identical():
    batch, runs = trajectories(), []
    for interrupted in (False, True):
        policy = tiny_llama()
        updater = Updater(policy, optimizer="adamw", lr=1e-2, temperature=1.0, max_tokens=10**6)
        take_step(updater, batch, [1.0] * 6)
        if interrupted:
            saved, weights = updater.state_dict(), {k: v.clone() for k, v in policy.state_dict().items()}
            policy = tiny_llama(seed=9)
            policy.load_state_dict(weights)
            updater = Updater(policy, optimizer="adamw", lr=1e-2, temperature=1.0, max_tokens=10**6)
            updater.load_state_dict(saved)
        take_step(updater, batch, [0.5] * 6)
        runs.append(policy.state_dict())
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
