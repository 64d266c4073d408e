"""The equations against closed forms (collapse causes 2, 3 and 6 have their invariants here and in test_update.py)."""

import math

import pytest
import torch
from conftest import config

from grpo_introspect import clip_otherwise, fresh_advantages
from introspection.losses import centred_advantages, kl_k3, policy_gradient, standard_errors


def test_policy_gradient_equals_reinforce_by_hand():
    """On a softmax over three tokens d(-A log p_k)/dz = -A (1[k] - p)."""
    logits = torch.tensor([0.3, -1.2, 0.7], requires_grad=True)
    logp = torch.log_softmax(logits, 0)
    picks, advantages = [2, 0, 2, 1], torch.tensor([0.5, -0.25, 1.0, 0.75])
    policy_gradient(logp[picks], advantages, normalizer=4).backward()
    p = torch.softmax(logits.detach(), 0)
    by_hand = -sum(a * (torch.eye(3)[k] - p) for a, k in zip(advantages, picks, strict=True)) / 4
    assert torch.allclose(logits.grad, by_hand, atol=1e-7)


def test_k3_is_nonnegative_zero_at_equality_and_unbiased():
    policy, ref = (
        torch.log_softmax(torch.tensor([1.0, 0.0, -1.0]), 0),
        torch.log_softmax(torch.tensor([0.2, 0.5, -0.3]), 0),
    )
    assert kl_k3(policy, policy).abs().max() == 0
    assert (kl_k3(policy, ref) >= 0).all()
    kl = (policy.exp() * (policy - ref)).sum()
    assert torch.allclose((policy.exp() * kl_k3(policy, ref)).sum(), kl, atol=1e-6)


def test_k3_gradient_pulls_towards_the_reference():
    """Sampled from the policy, k3's expected gradient is that of KL(ref || policy): a step against it lowers the KL."""
    logits, ref = (
        torch.tensor([2.0, 0.0, -2.0], requires_grad=True),
        torch.log_softmax(torch.tensor([0.0, 0.0, 0.0]), 0),
    )
    logp = torch.log_softmax(logits, 0)
    (logp.exp().detach() * kl_k3(logp, ref)).sum().backward()
    expected = torch.softmax(logits.detach(), 0) - ref.exp()
    assert torch.allclose(logits.grad, expected, atol=1e-6)


def test_k3_survives_a_huge_ratio():
    logp = torch.tensor([-300.0, -1.0], requires_grad=True)
    kl_k3(logp, torch.tensor([-1.0, -1.0])).sum().backward()
    assert torch.isfinite(logp.grad).all()


def test_centred_advantages_sum_to_zero_and_ignore_invalid_points():
    scores = torch.tensor([1.0, 0.0, 0.5, 9.0])
    advantages = centred_advantages(scores, torch.tensor([True, True, True, False]))
    assert advantages.sum().abs() < 1e-6 and advantages[3] == 0
    assert torch.allclose(advantages[:3], torch.tensor([0.5, -0.5, 0.0]))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.7, 1.0])
def test_no_spread_gives_exactly_zero(value):
    for size in (1, 3, 7, 16):
        assert (centred_advantages(torch.full((size,), value), torch.ones(size, dtype=torch.bool)) == 0).all()
    assert (centred_advantages(torch.tensor([0.3, 0.9]), torch.tensor([False, False])) == 0).all()


def test_rounding_is_no_spread():
    """Equal counts in another order may differ in the last bit; AdamW would make a full step of that."""
    scores = torch.tensor([0.5, 0.5 + 6e-8, 0.5])
    assert (centred_advantages(scores, torch.ones(3, dtype=torch.bool)) == 0).all()
    assert (fresh_advantages(scores, torch.ones(3, dtype=torch.bool), 0.5 + 1.2e-7) == 0).all()


def test_fresh_baseline_keeps_a_group_whose_points_all_help():
    scores, valid = torch.ones(4), torch.tensor([True, True, True, False])
    assert fresh_advantages(scores, valid, 0.25).tolist() == [0.75, 0.75, 0.75, 0.0]


def test_clipping_modes():
    advantages, errors = torch.tensor([-0.5, 0.1, 0.5]), torch.full((3,), 0.2)
    assert clip_otherwise(config(clip="none"), advantages, errors).tolist() == advantages.tolist()
    assert clip_otherwise(config(clip="lcb"), advantages, errors).tolist() == pytest.approx([0, 0, 0.3])
    assert clip_otherwise(config(clip="positive"), advantages, errors).tolist() == (advantages > 0).double().tolist()


def test_standard_error_matches_simulation_and_exists_at_one_view():
    """Equally good points: the spread of their scores is what standard_errors predicts."""
    generator, weights = torch.Generator().manual_seed(0), torch.full((4,), 0.25)
    difficulty = torch.tensor([0.1, 0.5, 0.5, 0.9])
    scores = (torch.rand(4000, 4, generator=generator) < difficulty).float()
    predicted = standard_errors(scores, torch.ones(4000, dtype=torch.bool), weights)[0]
    assert predicted == pytest.approx(math.sqrt((difficulty * (1 - difficulty)).sum() / 16), rel=0.03)
    assert (scores @ weights).std() == pytest.approx(predicted.item(), rel=0.05)
    assert standard_errors(scores[:8, 1:2], torch.ones(8, dtype=torch.bool), torch.ones(1))[0] > 0


def test_lcb_takes_away_what_noise_alone_earns():
    """Equally useless points at V = 1 have a mean clipped advantage of about 0.25.

    The lower bound removes most of it.
    """
    generator = torch.Generator().manual_seed(1)
    earned = {"zero": 0.0, "lcb": 0.0}
    for _ in range(300):
        scores = (torch.rand(16, 1, generator=generator) < 0.5).float()
        valid = torch.ones(16, dtype=torch.bool)
        advantages = centred_advantages(scores[:, 0], valid)
        errors = standard_errors(scores, valid, torch.ones(1))
        earned["zero"] += advantages.clamp(min=0).mean().item() / 300
        earned["lcb"] += clip_otherwise(config(clip="lcb"), advantages, errors).mean().item() / 300
    assert earned["zero"] == pytest.approx(0.23, abs=0.03) and earned["lcb"] < 0.02
