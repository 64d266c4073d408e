"""The equations: pure tensor functions. Sources are sections of the paper and of the papers that it builds on.

Letters: G points in a group (one question), V verification rollouts of a point, N trained tokens of a micro-batch.
"""

import math

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


def fresh_advantages(scores: torch.Tensor, valid: torch.Tensor, baseline: float) -> torch.Tensor:
    """A_j = s_j - score without a point on the same questions (paper, 'Training Stability', cause 4: a fresh baseline).

    Unlike the group mean it keeps the best case, a group whose points all help.
    """
    advantages = torch.where(valid, scores - baseline, 0.0)
    return torch.where(advantages.abs() < ROUNDING, 0.0, advantages)


def standard_errors(scores: torch.Tensor, valid: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Standard error (G,) of each point's score s_j = sum_v w_v s_jv if all points of the group were equally good.

    scores: (G, V), one column per verification view, shared by the group; weights: (V,), summing to 1. The spread between
    points within a column holds none of the views' difficulty, and exists at V = 1 too. Conservative where points differ.
    """
    if valid.sum() < 2:  # no second point to compare with: the binomial spread of its own score, (k + 1) / (n + 2)
        smoothed = (scores[valid].sum() + 1) / (valid.sum() * scores.shape[1] + 2)
        variance = (smoothed * (1 - smoothed)).expand(scores.shape[1])
    else:
        variance = scores[valid].var(dim=0, unbiased=True)  # (V,)
    return (weights.square() * variance).sum().sqrt().expand(scores.shape[0])


def clip_advantages(advantages: torch.Tensor, mode: str, errors: torch.Tensor | float = 0.0, z: float = 0.0) -> torch.Tensor:
    """zero: max(A, 0) (paper, cause 2); lcb: max(A - z SE, 0), so that luck alone earns nothing; none: A as it is;
    positive: 1 where A > 0, which makes the policy gradient supervised fine-tuning on the points that helped (a null)."""
    if mode == "none":
        return advantages
    if mode == "positive":
        return (advantages > 0).to(advantages.dtype)
    return (advantages - z * errors if mode == "lcb" else advantages).clamp(min=0)


def policy_gradient(logprobs: torch.Tensor, advantages: torch.Tensor, normalizer: float) -> torch.Tensor:
    """-(1/normalizer) sum_n A_n log pi(token_n): REINFORCE, on policy, so no ratio and no clip.

    logprobs, advantages: (N,). The value means little (0 on average with centred advantages); its gradient is the method.
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
    """A = r - mean of the group, over its unbiased standard deviation with `scale` (GRPO); Dr. GRPO does not divide (arXiv 2402.03300, 2503.20783).

    rewards: (Q, G). A group without spread gets exactly 0.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    centred = torch.where(rewards.amax(1, keepdim=True) - rewards.amin(1, keepdim=True) < ROUNDING, 0.0, centred)
    return centred / (rewards.std(dim=1, keepdim=True) + eps) if scale else centred


def reduced(advantages: torch.Tensor, lengths: torch.Tensor, reduction: str, rollouts: int, max_length: int) -> torch.Tensor:
    """Weights (N,) with which `policy_gradient`, normalised by all sum(lengths) tokens, is the named reduction.

    sequence: mean over sequences of their mean over tokens (GRPO); token: mean over tokens (DAPO); constant: sum over tokens by
    rollouts x max_length (Dr. GRPO; Composer 2, whose rollouts are chains of several sequences). advantages, lengths: (N,).
    """
    tokens = lengths.sum()
    if reduction == "sequence":
        return advantages * tokens / (len(lengths) * lengths)
    return advantages * tokens / (rollouts * max_length) if reduction == "constant" else advantages


def with_tail(logprobs: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, k) of some tokens and, as the last of k + 1, of all others together (the tail bucket of SDPO, arXiv 2601.20802)."""
    inside = logprobs.logsumexp(-1, keepdim=True).clamp(max=-1e-7)  # rounding may put it at 0, whose tail would be log 0
    return torch.cat([logprobs, torch.log(-torch.expm1(inside))], dim=-1)


def divergence(student: torch.Tensor, teacher: torch.Tensor, alpha: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence (N,) of log-probabilities (N, K) (SDPO, as above).

    alpha 0: KL(teacher || student); 1: KL(student || teacher); between: (1 - alpha) KL(S || M) + alpha KL(T || M) with the mixture
    M = (1 - alpha) S + alpha T, at most log 2 for 1/2. The ends are no limits of the middle, which vanishes there.
    """

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p.exp() * (p - q)).sum(-1)

    if alpha in (0.0, 1.0):
        return kl(student, teacher) if alpha else kl(teacher, student)
    mixture = torch.logaddexp(student + math.log(1 - alpha), teacher + math.log(alpha))
    return (1 - alpha) * kl(student, mixture) + alpha * kl(teacher, mixture)


def bounded(student: torch.Tensor, teacher: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The teacher's log-probabilities with its ratio to the student kept within [low, high]; 0: no such bound (Resd, Eq. 1).

    The bound follows the student as a constant: no gradient flows through it, and nothing is normalised afterwards.
    """
    fixed = student.detach()
    if low:
        teacher = torch.maximum(teacher, fixed + math.log(low))
    return torch.minimum(teacher, fixed + math.log(high)) if high else teacher


def rebalanced(right: torch.Tensor, alpha: float = 1.0, beta: float = 1.0) -> torch.Tensor:
    """Weights (B,) with mean 1 that give the rarer outcome more: (1 - s)^alpha where right, s^beta where not (Resd, Eq. 2).

    right: (B,) of 0 and 1; s: the share of right ones, kept within [1/B, 1 - 1/B]. A batch of one has the weight 1.
    """
    if len(right) == 1:  # whatever its share, the mean is its own weight; the bounds of the share would cross
        return torch.ones_like(right)
    share = right.mean().clamp(1 / len(right), 1 - 1 / len(right))
    weights = torch.where(right > 0, (1 - share) ** alpha, share**beta)
    return weights / weights.mean()
