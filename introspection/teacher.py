"""What a distilling objective needs: what a teacher says at the places that a student is trained on, and how far the
student is from it.

Stage 2 and the rivals SDPO and Resd move a policy towards a teacher's distribution instead of along an advantage.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from introspection.logprobs import (
    Batch,
    collate,
    head_of,
    hidden_states,
    micro_batches,
    packable,
    per_token,
    token_logprobs,
)
from introspection.sampling import Trajectory


@dataclass
class Teacher:
    """What a teacher would say at the T trained places of each trajectory: log-probabilities (T, k) of k tokens `ids`
    (T, k).

    divergence(student (N, k), teacher (N, k)) -> (N,) takes the place of the policy gradient; advantages are its
    weights.
    """

    ids: list[torch.Tensor]
    logprobs: list[torch.Tensor]
    divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def of(self, kept: list[int]) -> "Teacher":
        """What it says of some of the trajectories."""
        return Teacher([self.ids[i] for i in kept], [self.logprobs[i] for i in kept], self.divergence)


@torch.no_grad()
def look_up(model, trajectories: list[Trajectory], max_tokens: int, look: Callable) -> list[torch.Tensor]:
    """look(batch) -> (N, ...), cut into the T trained places of each trajectory.

    When memory runs out the token budget is halved.
    """
    found, pack = [None] * len(trajectories), packable(model)
    while True:
        try:
            for rows in micro_batches(trajectories, max_tokens, pack):
                batch = collate(trajectories, rows, model.device)
                values = look(batch)
                for i in batch.owners.unique().tolist():
                    found[i] = values[batch.owners == i]
            return found
        except torch.OutOfMemoryError:
            if max_tokens <= max(len(t.ids) for t in trajectories):
                raise
            max_tokens, pack = max_tokens // 2, False  # a packed row cannot be cut
            torch.cuda.empty_cache()


def likeliest(model, trajectories: list[Trajectory], k: int, temperature: float, max_tokens: int) -> list[torch.Tensor]:
    """Ids (T, k) of the k likeliest tokens at each of a trajectory's T trained places."""

    def look(batch: Batch) -> torch.Tensor:
        head, hidden = head_of(model), hidden_states(model, batch)
        most = min(k, head.weight.shape[0])
        return torch.cat([head.logits(h, temperature).topk(most).indices for h in head.chunks(hidden)])

    return look_up(model, trajectories, max_tokens, look)


def logprobs_at(
    model, trajectories: list[Trajectory], ids: list[torch.Tensor], temperature: float, max_tokens: int
) -> list[torch.Tensor]:
    """Log-probabilities (T, k) that a model gives to ids (T, k) at each trajectory's T trained places."""
    return look_up(
        model, trajectories, max_tokens, lambda batch: token_logprobs(model, batch, temperature, per_token(ids, batch))
    )


def with_tail(logprobs: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, k) of some tokens and, as the last of k + 1, of all others together.

    The tail bucket of SDPO (arXiv 2601.20802).
    """
    # Rounding may put the sum at 0, whose tail would be log 0.
    inside = logprobs.logsumexp(-1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([logprobs, torch.log(-torch.expm1(inside))], dim=-1)


def divergence(student: torch.Tensor, teacher: torch.Tensor, alpha: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence (N,) of log-probabilities (N, K) (SDPO, as above).

    alpha 0: KL(teacher || student); 1: KL(student || teacher); between: (1 - alpha) KL(S || M) + alpha KL(T || M) with
    the mixture M = (1 - alpha) S + alpha T, at most log 2 for 1/2. The ends are no limits of the middle, which vanishes
    there.
    """

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p.exp() * (p - q)).sum(-1)

    if alpha in (0.0, 1.0):
        return kl(student, teacher) if alpha else kl(teacher, student)
    mixture = torch.logaddexp(student + math.log(1 - alpha), teacher + math.log(alpha))
    return (1 - alpha) * kl(student, mixture) + alpha * kl(teacher, mixture)
