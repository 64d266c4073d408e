"""The equations: pure tensor functions. Sources are sections of the paper and of the papers that it builds on.

Letters: G points in a group (one question), V verification rollouts of a point, N trained tokens of a micro-batch.
"""

import torch

ROUNDING = 1e-6  # scores closer than this are equal


def centred_advantages(scores: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """A_j = s_j - mean of the group (paper, 'Compute introspection advantage').

    scores: (G,); valid: (G,) bool. Points that did not parse or leak are no part of the mean and get 0; so does a group
    without spread (rounding apart), exactly, because then nothing tells a better point from a worse one and AdamW would
    turn a rounding error into a full step.
    """
    if not valid.any() or scores[valid].max() - scores[valid].min() < ROUNDING:
        return torch.zeros_like(scores)
    return torch.where(valid, scores - scores[valid].mean(), 0.0)


def standard_errors(scores: torch.Tensor, valid: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Standard error (G,) of each point's score s_j = sum_v w_v s_jv if all points of the group were equally good.

    scores: (G, V), one column per verification view, shared by the group; weights: (V,), summing to 1. The spread
    between points within a column holds none of the views' difficulty, and exists at V = 1 too. Conservative where
    points differ.
    """
    if valid.sum() < 2:  # no second point to compare with: the binomial spread of its own score, (k + 1) / (n + 2)
        smoothed = (scores[valid].sum() + 1) / (valid.sum() * scores.shape[1] + 2)
        variance = (smoothed * (1 - smoothed)).expand(scores.shape[1])
    else:
        variance = scores[valid].var(dim=0, unbiased=True)  # (V,)
    return (weights.square() * variance).sum().sqrt().expand(scores.shape[0])


def policy_gradient(logprobs: torch.Tensor, advantages: torch.Tensor, normalizer: float) -> torch.Tensor:
    """-(1/normalizer) sum_n A_n log pi(token_n): REINFORCE, on policy, so no ratio and no clip.

    logprobs, advantages: (N,). The value means little (0 on average with centred advantages); its gradient is the
    method.
    """
    return -(advantages * logprobs).sum() / normalizer


def kl_k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Per-token estimate (N,) of KL(policy || ref) on sampled tokens: exp(-u) + u - 1, u = logp - ref; never negative.

    As a loss its expected gradient is that of KL(ref || policy): it keeps the policy from dropping what ref would say.
    u is bounded before exp, because an overflow in one token makes every gradient NaN.
    """
    u = (logprobs - ref_logprobs).clamp(-20, 20)
    return torch.exp(-u) + u - 1


def group_advantages(rewards: torch.Tensor, scale: bool, eps: float = 1e-4) -> torch.Tensor:
    """A = r - mean of the group, over its unbiased standard deviation with `scale` (GRPO); Dr. GRPO does not divide
    (arXiv 2402.03300, 2503.20783).

    rewards: (Q, G). A group without spread gets exactly 0.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    centred = torch.where(rewards.amax(1, keepdim=True) - rewards.amin(1, keepdim=True) < ROUNDING, 0.0, centred)
    return centred / (rewards.std(dim=1, keepdim=True) + eps) if scale else centred
