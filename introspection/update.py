"""An optimiser step in three verbs: backward, clip, apply. Nothing else in the project steps an optimiser.

Zero-advantage trajectories cost nothing, micro-batches stay under a token budget, and one normaliser serves the whole
step.
"""

import math

import torch

from common import UserError, sum_gradients, sum_over_ranks
from introspection.logprobs import collate, micro_batches, packable, per_token, token_logprobs
from introspection.losses import kl_k3, policy_gradient
from introspection.sampling import Trajectory

RATIO_SAMPLE = 2**16  # elements of each parameter that `update_ratio` looks at


def fp32_master(parameter: torch.Tensor) -> torch.Tensor:
    """The parameter itself where it is fp32, else an fp32 copy that the optimiser steps in its place."""
    if parameter.dtype in (torch.bfloat16, torch.float16):
        return parameter.detach().float().requires_grad_()
    return parameter


class Updater:
    """Owns the optimiser and the fp32 masters of a policy.

    A parameter in fp32 is its own master. One in bf16 or fp16 gets an fp32 copy: clipped gradients move a bf16 weight
    by less than its rounding, so without a master about 0.3 % of an update survives and training stands still without
    complaint.
    """

    def __init__(
        self,
        policy,
        *,
        optimizer: str,
        lr: float,
        temperature: float,
        max_tokens: int,
        kl_coef: float = 0.0,
        ref_policy=None,
    ):
        self.policy, self.temperature, self.max_tokens = policy, temperature, max_tokens
        self.kl_coef, self.ref_policy = kl_coef, ref_policy
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.masters = [fp32_master(parameter) for parameter in self.parameters]
        # Departure from paper: AdamW is offered and is our default; plain SGD, without momentum (cause 1), is the
        # paper's.
        if optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(self.masters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
        else:
            self.optimizer = torch.optim.SGD(self.masters, lr=lr)
        self.failures = 0  # non-finite steps in a row
        self.pack = packable(policy)
        self.norm = None  # of the gradient that `backward` left; None: this step is skipped
        self.kl = None

    # ---- the three verbs ---------------------------------------------------------------------------------------------
    def backward(
        self,
        trajectories: list[Trajectory],
        advantages: list,
        loss=policy_gradient,
        teacher=None,
        held: list[Trajectory] | None = None,
    ) -> None:
        """Leaves the gradient of `loss` over the trained tokens in the masters, or none: then the step is skipped.

        advantages: a number for each trajectory, or a tensor (T,) with one for each of its trained tokens.
        loss(logprobs (N,), advantages (N,), normalizer): called on each micro-batch. With a teacher (teacher.Teacher)
        advantages are the weights of a step towards what it would say instead; it takes the place of a KL to the start
        (ValueError with both). held: what the start policy said elsewhere; the KL to it is there then, and not on what
        is trained (ValueError without kl_coef). A step without any advantage is skipped and leaves the weights
        bit-identical (collapse cause 6). A non-finite loss or gradient is skipped too (UserError after three in a row).
        When memory runs out, the token budget is halved and it starts over.
        """
        if teacher and self.kl_coef:
            raise ValueError("a teacher's divergence and a KL to the start policy exclude each other")
        if held and not self.kl_coef:
            raise ValueError("what is held has the KL to the start policy, whose weight is 0")
        self.norm = self.kl = None
        # One normaliser, counted before anything is dropped: dropping must not make the remaining tokens louder.
        counts = [sum(t.loss_mask) for t in trajectories]
        normalizer = sum_over_ranks(sum(counts))
        weights = [torch.as_tensor(a, dtype=torch.float32).expand(n) for a, n in zip(advantages, counts, strict=True)]
        kept = [i for i, weight in enumerate(weights) if weight.any()]
        if not sum_over_ranks(len(kept)):
            return
        trajectories, weights = [trajectories[i] for i in kept], [weights[i] for i in kept]
        if teacher:
            teacher = teacher.of(kept)
        kl, finite = self._within_memory(trajectories, weights, loss, teacher, held or [], normalizer)
        sum_gradients(self.masters)
        norm = torch.nn.utils.get_total_norm([m.grad for m in self.masters if m.grad is not None])
        # Guard before clipping: clipping by a NaN norm would write NaN into every gradient.
        if not (finite and torch.isfinite(norm)):
            self._clear_gradients()
            self.failures += 1
            if self.failures == 3:
                raise UserError("loss or gradient was not finite in three steps in a row; lower the learning rate")
            return
        self.failures, self.norm, self.kl = 0, norm, kl

    def clip(self, max_grad_norm: float) -> None:
        """Scales the gradient down to a norm of at most `max_grad_norm` (collapse cause 3)."""
        if self.norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.masters, max_grad_norm, self.norm)

    def apply(self) -> dict[str, float | None]:
        """Steps the optimiser and writes the masters into the policy.

        The metrics of the step. A skipped step changes nothing.
        """
        if self.norm is None:
            return {"grad_norm": None, "kl": None, "update_ratio": None, "skipped_steps": 1}
        before = [self._sampled(m).clone() for m in self.masters]
        self.optimizer.step()
        ratio = self._update_ratio(before)
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
        self._clear_gradients()
        kl = self.kl if self.kl_coef else None
        return {"grad_norm": self.norm.item(), "kl": kl, "update_ratio": ratio, "skipped_steps": 0}

    # ---- beneath them ------------------------------------------------------------------------------------------------
    def _within_memory(self, trajectories, weights, loss, teacher, held, normalizer) -> tuple[float, bool]:
        """`_accumulate`, from where memory runs out with half the token budget, which is kept."""
        while True:
            try:
                # Recomputation only happens in train mode; rollouts need eval mode (their cache would be dropped
                # silently).
                self.policy.train(getattr(self.policy, "is_activation_checkpointing", False))
                kl, finite = self._accumulate(trajectories, weights, loss, teacher, normalizer, bool(held))
                kl = self._hold(held) if held else kl
                self.policy.eval()
                return kl, finite and math.isfinite(kl)
            except torch.OutOfMemoryError:  # of this rank alone: gradients are summed later
                self._clear_gradients()
                if self.max_tokens <= max(len(t.ids) for t in [*trajectories, *held]):
                    raise
                self.pack = False  # a packed row cannot be cut
                self.max_tokens //= 2
                torch.cuda.empty_cache()

    def _accumulate(self, trajectories, weights, loss, teacher, normalizer, held: bool) -> tuple[float, bool]:
        """Sums the gradient over micro-batches; (mean k3 KL of the trained tokens, whether every loss was finite)."""
        kl_sum, tokens, finite = 0.0, 0, True
        for rows in micro_batches(trajectories, self.max_tokens, self.pack):
            batch = collate(trajectories, rows, self.policy.device)
            advantages = per_token(weights, batch)  # (N,)
            if teacher:
                logprobs = token_logprobs(self.policy, batch, self.temperature, per_token(teacher.ids, batch))  # (N, k)
                distances = teacher.divergence(logprobs, per_token(teacher.logprobs, batch))  # (N,)
                objective = (advantages * distances).sum() / normalizer
            else:
                logprobs = token_logprobs(self.policy, batch, self.temperature)  # (N,)
                objective = loss(logprobs, advantages, normalizer)
            if self.kl_coef and not held:
                kl = kl_k3(logprobs, self._reference(batch)).sum()
                objective = objective + self.kl_coef * kl / normalizer
                kl_sum += kl.item()
            objective.backward()
            self._gather_gradients()
            finite &= bool(torch.isfinite(objective))
            tokens += len(logprobs)
        return sum_over_ranks(kl_sum) / sum_over_ranks(tokens), sum_over_ranks(not finite) == 0

    def _hold(self, held: list[Trajectory]) -> float:
        """Adds the gradient of kl_coef times the mean k3 KL of the held tokens; that mean.

        The start policy sampled them, so its log-probabilities come first: the estimate is of KL(ref || policy).
        """
        kl_sum, normalizer = 0.0, sum_over_ranks(sum(sum(t.loss_mask) for t in held))
        for rows in micro_batches(held, self.max_tokens, self.pack):
            batch = collate(held, rows, self.policy.device)
            kl = kl_k3(self._reference(batch), token_logprobs(self.policy, batch, self.temperature)).sum()
            (self.kl_coef * kl / normalizer).backward()
            self._gather_gradients()
            kl_sum += kl.item()
        return sum_over_ranks(kl_sum) / normalizer

    @torch.no_grad()
    def _reference(self, batch) -> torch.Tensor:
        return token_logprobs(self.ref_policy, batch, self.temperature)

    def _gather_gradients(self) -> None:
        """Adds the gradients of low-precision parameters to their masters.

        Summed in bf16, small micro-batches would be lost.
        """
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
        """|applied update| / |intended update|: what the weights' precision let through.

        Near 1, or training is a no-op.
        """
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
