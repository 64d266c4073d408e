"""One optimiser step from trajectories and advantages; nothing else in the project steps an optimiser.

Zero-advantage trajectories cost nothing, micro-batches stay under a token budget, and one normaliser serves the whole step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

import ranks
from common import UserError
from logprobs import collate, micro_batches, packable, per_token, token_logprobs
from losses import kl_k3, policy_gradient
from rollout import Trajectory

RATIO_SAMPLE = 2**16  # elements of each parameter that `update_ratio` looks at


@dataclass
class Teacher:
    """What a teacher would say at the T trained places of each trajectory: log-probabilities (T, k) of k tokens `ids` (T, k).

    divergence(student (N, k), teacher (N, k)) -> (N,) takes the place of the policy gradient; advantages are its weights.
    """

    ids: list[torch.Tensor]
    logprobs: list[torch.Tensor]
    divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Updater:
    """Owns the optimiser and the fp32 masters of a policy.

    A parameter in fp32 is its own master. One in bf16 or fp16 gets an fp32 copy: clipped gradients move a bf16 weight by less than
    its rounding, so without a master about 0.3 % of an update survives and training stands still without complaint.
    """

    def __init__(
        self, policy, optimizer: str, lr: float, max_grad_norm: float, temperature: float, max_tokens: int,
        kl_coef: float = 0.0, ref_policy=None,
    ):  # fmt: skip
        self.policy, self.max_grad_norm, self.temperature = policy, max_grad_norm, temperature
        self.max_tokens, self.kl_coef, self.ref_policy = max_tokens, kl_coef, ref_policy
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.masters = [p.detach().float().requires_grad_() if p.dtype in (torch.bfloat16, torch.float16) else p for p in self.parameters]
        # Departure from paper: AdamW is offered and is our default; plain SGD, without momentum (cause 1), is the paper's.
        if optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(self.masters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
        else:
            self.optimizer = torch.optim.SGD(self.masters, lr=lr)
        self.failures = 0  # non-finite steps in a row
        self.pack = packable(policy)

    def step(self, trajectories: list[Trajectory], advantages: list[float | torch.Tensor], teacher: Teacher | None = None) -> dict[str, float | None]:
        """One policy gradient step; returns its metrics. Raises UserError after three non-finite steps in a row.

        advantages: a number for each trajectory, or a tensor (T,) with one for each of its trained tokens. With a teacher they are
        the weights of a step towards what it would say instead; it takes the place of a KL to the start (ValueError with both).
        A step without any advantage is skipped and leaves the weights bit-identical (collapse cause 6). A non-finite loss or
        gradient is skipped too. When memory runs out, the token budget is halved and the step starts over.
        """
        if teacher and self.kl_coef:
            raise ValueError("a teacher's divergence and a KL to the start policy exclude each other")
        # One normaliser, counted before anything is dropped: dropping must not make the remaining tokens louder.
        counts = [sum(t.loss_mask) for t in trajectories]
        normalizer = ranks.total(sum(counts))
        weights = [torch.as_tensor(a, dtype=torch.float32).expand(n) for a, n in zip(advantages, counts, strict=True)]  # (T,) each
        kept = [i for i, w in enumerate(weights) if w.any()]
        pairs = [(trajectories[i], weights[i]) for i in kept]
        if teacher:
            teacher = Teacher([teacher.ids[i] for i in kept], [teacher.logprobs[i] for i in kept], teacher.divergence)
        skipped = {"grad_norm": None, "kl": None, "update_ratio": None, "skipped_steps": 1}
        if not ranks.total(len(pairs)):
            return skipped
        budget = self.max_tokens
        while True:
            try:
                # Recomputation only happens in train mode; rollouts need eval mode (their cache would be dropped silently).
                self.policy.train(getattr(self.policy, "is_activation_checkpointing", False))
                kl, finite = self._backward(pairs, teacher, normalizer, budget)
                self.policy.eval()
                break
            except torch.OutOfMemoryError:  # of this rank alone: gradients are summed later
                self._clear_gradients()
                if budget <= max(len(t.ids) for t, _ in pairs):
                    raise
                self.pack = False  # a packed row cannot be cut
                budget //= 2
                torch.cuda.empty_cache()
        ranks.sum_gradients(self.masters)
        gradients = [m.grad for m in self.masters if m.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # Guard before clipping: clipping by a NaN norm would write NaN into every gradient.
        if not (finite and torch.isfinite(norm)):
            self._clear_gradients()
            self.failures += 1
            if self.failures == 3:
                raise UserError("loss or gradient was not finite in three steps in a row; lower the learning rate")
            return skipped
        self.failures = 0
        torch.nn.utils.clip_grads_with_norm_(self.masters, self.max_grad_norm, norm)  # collapse cause 3
        before = [self._sampled(m).clone() for m in self.masters]
        self.optimizer.step()
        ratio = self._update_ratio(before)
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
        self._clear_gradients()
        return {"grad_norm": norm.item(), "kl": kl if self.kl_coef else None, "update_ratio": ratio, "skipped_steps": 0}

    def _backward(self, pairs: list[tuple[Trajectory, torch.Tensor]], teacher: Teacher | None, normalizer: int, budget: int) -> tuple[float, bool]:
        """Accumulates the gradient over micro-batches; (mean k3 KL of the trained tokens, whether every loss was finite)."""
        trajectories, weights = [t for t, _ in pairs], [w for _, w in pairs]
        kl_sum, tokens, finite = 0.0, 0, True
        for rows in micro_batches(trajectories, budget, self.pack):
            batch = collate(trajectories, rows, self.policy.device)
            logprobs = token_logprobs(self.policy, batch, self.temperature, per_token(teacher.ids, batch) if teacher else None)  # (N,) or (N, k)
            advantages = per_token(weights, batch)  # (N,)
            if teacher:
                loss = (advantages * teacher.divergence(logprobs, per_token(teacher.logprobs, batch))).sum() / normalizer
            else:
                loss = policy_gradient(logprobs, advantages, normalizer)
            if self.kl_coef:
                with torch.no_grad():
                    reference = token_logprobs(self.ref_policy, batch, self.temperature)
                kl = kl_k3(logprobs, reference).sum()
                loss = loss + self.kl_coef * kl / normalizer
                kl_sum += kl.item()
            loss.backward()
            self._gather_gradients()
            finite &= bool(torch.isfinite(loss))
            tokens += len(logprobs)
        return ranks.total(kl_sum) / ranks.total(tokens), ranks.total(not finite) == 0

    def _gather_gradients(self) -> None:
        """Adds the gradients of low-precision parameters to their masters: summed in bf16, small micro-batches are lost."""
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            if master is not parameter and parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def _clear_gradients(self) -> None:
        for parameter in (*self.masters, *self.parameters):
            parameter.grad = None

    @staticmethod
    def _sampled(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.detach().flatten()
        return flat[:: -(-flat.numel() // RATIO_SAMPLE)]

    def _update_ratio(self, before: list[torch.Tensor]) -> float:
        """|applied update| / |intended update|: what the weights' precision let through. Near 1, or training is a no-op."""
        applied = intended = 0.0
        group = self.optimizer.param_groups[0]
        for master, old in zip(self.masters, before, strict=True):
            if master.grad is None:
                continue
            state = self.optimizer.state[master]
            if isinstance(self.optimizer, torch.optim.AdamW):
                beta1, beta2 = group["betas"]
                mean = self._sampled(state["exp_avg"]).double() / (1 - beta1 ** state["step"].item())
                square = self._sampled(state["exp_avg_sq"]).double() / (1 - beta2 ** state["step"].item())
                wanted = mean / (square.sqrt() + group["eps"])
            else:
                wanted = self._sampled(master.grad).double()
            intended += (group["lr"] * wanted).square().sum().item()
            applied += (self._sampled(master).double() - old.double()).square().sum().item()
        return (applied / intended) ** 0.5 if intended else 1.0

    def state_dict(self) -> dict:
        """Optimiser state, and the masters of parameters that are not their own: what a bit-identical resume needs."""
        masters = [m.detach() for m, p in zip(self.masters, self.parameters, strict=True) if m is not p]
        return {"optimizer": self.optimizer.state_dict(), "masters": masters, "failures": self.failures}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        owned = [m for m, p in zip(self.masters, self.parameters, strict=True) if m is not p]
        with torch.no_grad():
            for master, saved in zip(owned, state["masters"], strict=True):
                master.copy_(saved)
        self.failures = state["failures"]
