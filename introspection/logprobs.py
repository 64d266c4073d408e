"""Log-probabilities of trained tokens: trajectories packed into micro-batches, the head run in chunks on trained tokens
only.

Trajectories that start with the same prompt are packed into one row: the prompt once, then every continuation, which
sees the prompt and itself but no other continuation and whose positions start again after the prompt. Models whose
attention depends on the distance within a row (sliding windows) or shares keys and values between layers get one
trajectory a row. No (B, T, V) tensor ever exists.
"""

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import get_layer_types_and_kwargs

from common import UserError
from introspection.chat import Chat
from introspection.sampling import Trajectory, sample

CHUNK_ELEMENTS = 2**25  # logits of one chunk: 128 MiB in fp32, of which four are alive in the backward pass
MAX_PACKED = 320  # longest packed row: attention costs its square, and at 768 takes back all that packing gains


@dataclass
class Batch:
    """A micro-batch of B rows and T places with N trained tokens; `positions`, `attention` are None without packing."""

    ids: torch.Tensor  # (B, T), padded on the right
    rows: torch.Tensor  # (N,) row of each trained token
    sources: torch.Tensor  # (N,) place whose hidden state predicts it
    targets: torch.Tensor  # (N,) its id
    owners: torch.Tensor  # (N,) index of its trajectory
    places: torch.Tensor  # (N,) number of the token among the trained ones of its trajectory
    positions: torch.Tensor | None = None  # (B, T)
    attention: torch.Tensor | None = None  # (B, 1, T, T) bool


def packable(model) -> bool:
    """Whether every layer attends to all that came before, keeps its own keys and values, and takes a boolean mask."""
    config = model.config.get_text_config()
    kinds, _ = get_layer_types_and_kwargs(config)
    return set(kinds) == {"full_attention"} and config._attn_implementation == "sdpa"


def packs(trajectories: list[Trajectory], pack: bool) -> list[list[int]]:
    """Indices of the trajectories of each row: those of one prompt together, up to MAX_PACKED tokens."""
    rows: list[list[int]] = []
    last: dict[tuple, tuple[int, int]] = {}  # prompt: (its newest row, that row's length)
    for i, trajectory in enumerate(trajectories):
        prompt, new = tuple(trajectory.prompt_ids), len(trajectory.ids) - len(trajectory.prompt_ids)
        row, length = last.get(prompt, (None, 0))
        if pack and row is not None and length + new <= MAX_PACKED:
            rows[row].append(i)
        else:
            row, length = len(rows), len(prompt)
            rows.append([i])
        last[prompt] = (row, length + new)
    return rows


def micro_batches(trajectories: list[Trajectory], max_tokens: int, pack: bool) -> list[list[list[int]]]:
    """Rows (lists of indices) in groups of similar length.

    A group is padded to at most max_tokens before `collate` rounds up; a longer row goes alone.
    """
    rows = packs(trajectories, pack)
    lengths = [row_length(trajectories, row) for row in rows]
    groups, longest = [], 0
    for r in sorted(range(len(rows)), key=lambda r: -lengths[r]):
        if groups and (len(groups[-1]) + 1) * longest <= max_tokens:
            groups[-1].append(rows[r])
        else:
            groups.append([rows[r]])
            longest = lengths[r]
    return groups


def row_length(trajectories: list[Trajectory], row: list[int]) -> int:
    prompt = len(trajectories[row[0]].prompt_ids)
    return prompt + sum(len(trajectories[i].ids) - prompt for i in row)


def collate(trajectories: list[Trajectory], rows: list[list[int]], device) -> Batch:
    """One micro-batch. T is a multiple of 8 (CUDA attention kernels misbehave at some odd lengths)."""
    width = -(-max(row_length(trajectories, row) for row in rows) // 8) * 8
    ids, positions, segments, trained = [], [], [], []
    for b, row in enumerate(rows):
        prompt = trajectories[row[0]].prompt_ids
        row_ids, row_positions, row_segments = list(prompt), list(range(len(prompt))), [0] * len(prompt)
        for segment, i in enumerate(row, start=1):
            start, whole, mask = len(row_ids), trajectories[i].ids, trajectories[i].loss_mask
            for place, k in enumerate(k for k in range(len(prompt), len(whole)) if mask[k]):
                # the first token of a continuation is predicted by the end of the prompt
                source = start + k - len(prompt) - 1 if k > len(prompt) else len(prompt) - 1
                trained.append((b, source, whole[k], i, place))
            row_ids += whole[len(prompt) :]
            row_positions += range(len(prompt), len(whole))
            row_segments += [segment] * (len(whole) - len(prompt))
        padding = width - len(row_ids)
        ids.append(row_ids + [0] * padding)
        positions.append(row_positions + [0] * padding)
        segments.append(row_segments + [-1] * padding)
    columns = torch.tensor(trained, device=device).T
    batch = Batch(torch.tensor(ids, device=device), *columns)
    if any(len(row) > 1 for row in rows):
        segment = torch.tensor(segments, device=device)
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        own_or_prompt = (segment[:, None, :] == segment[:, :, None]) | (segment[:, None, :] == 0)  # (B, query, key)
        batch.attention = (causal & own_or_prompt)[:, None]
        batch.positions = torch.tensor(positions, device=device)
    return batch


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits: `scale` is Granite's and Cohere's, `softcap` Gemma's."""

    weight: torch.Tensor  # (V, H)
    bias: torch.Tensor | None  # (V,)
    scale: float
    softcap: float | None

    def logits(self, hidden: torch.Tensor, temperature: float) -> torch.Tensor:
        """Logits (n, V) of hidden states (n, H) under the sampling distribution, in fp32."""
        bias = None if self.bias is None else self.bias.float()
        logits = torch.nn.functional.linear(hidden.float(), self.weight.float(), bias) * self.scale
        if self.softcap is not None:  # squashed before the softmax
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits / temperature

    def logprobs(self, hidden: torch.Tensor, ids: torch.Tensor, temperature: float) -> torch.Tensor:
        """Log-probabilities (n, k) of `ids` (n, k) from hidden states (n, H), in fp32."""
        logits = self.logits(hidden, temperature)
        return logits.gather(1, ids) - logits.logsumexp(-1, keepdim=True)

    def chunks(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows (n, ...) in parts whose logits fit into memory."""
        return rows.split(max(1, CHUNK_ELEMENTS // self.weight.shape[0]))


def head_of(model) -> Head:
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Head(head.weight, head.bias, scale, getattr(config, "final_logit_softcapping", None))


def hidden_states(model, batch: Batch) -> torch.Tensor:
    """Hidden states (N, H) that predict the trained tokens.

    Without packing no attention mask is needed: causal attention never looks at the padding on the right.
    """
    hidden = model.get_decoder()(
        input_ids=batch.ids, attention_mask=batch.attention, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    return hidden[batch.rows, batch.sources]


def token_logprobs(model, batch: Batch, temperature: float, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Log-probabilities (N,) of a batch's trained tokens under the sampling distribution, in the order of
    `batch.owners`.

    With ids (N, k): those of k tokens at each place, (N, k).
    """
    head, hidden = head_of(model), hidden_states(model, batch)
    asked = batch.targets[:, None] if ids is None else ids
    # Chunks are recomputed in the backward pass: only one of them holds its logits at a time.
    logprobs = torch.cat([
        checkpoint(head.logprobs, h, i, temperature, use_reentrant=False)
        for h, i in zip(head.chunks(hidden), head.chunks(asked), strict=True)
    ])  # fmt: skip
    return logprobs[:, 0] if ids is None else logprobs


@torch.no_grad()
def check_scorer(model, chat: Chat) -> None:
    """Samples a small batch and scores it: what training reinforces must be what was sampled.

    Raises UserError where they differ (an architecture whose head does more than ours knows), by at most 1e-3 in fp32
    and a mean of 0.05 below, and where the model cannot be sampled with a cache of keys and values at all.
    """
    prompts = [chat.first(text) for text in ("Say something.", "Say something else about what comes next.")]
    kind = model.config.get_text_config().model_type
    try:
        completions = sample(model, prompts, 2, 8, 1.0, [], [(0, i) for i in range(4)])
        trajectories = [Trajectory(prompts[i // 2], [(c.ids, True)]) for i, c in enumerate(completions)]
        batch = collate(trajectories, packs(trajectories, packable(model)), model.device)
        scored = token_logprobs(model, batch, 1.0).tolist()
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"shared.model: {kind} cannot be sampled with a cache of keys and values: {error}") from error
    owners, places = batch.owners.tolist(), batch.places.tolist()
    gaps = [
        abs(said - completions[owner].logprobs[place])
        for said, owner, place in zip(scored, owners, places, strict=True)
    ]
    exact = model.dtype in (torch.float32, torch.float64)
    gap, allowed = (max(gaps), 1e-3) if exact else (sum(gaps) / len(gaps), 0.05)
    if not gap <= allowed:
        what = f"log-probabilities of sampled tokens are off by {gap:.2g} nats when they are scored"
        raise UserError(f"shared.model: {kind} cannot be trained here: {what} (at most {allowed:g})")


def per_token(values: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    """What `values` hold for each trained token of a batch, (N, ...); values[i]: (T, ...) of trajectory i."""
    present = batch.owners.unique()
    parts = [values[i] for i in present.tolist()]
    starts = torch.zeros(len(values), dtype=torch.long, device=present.device)
    starts[present] = torch.tensor([0] + [len(part) for part in parts[:-1]], device=present.device).cumsum(0)
    return torch.cat(parts).to(present.device)[starts[batch.owners] + batch.places]
