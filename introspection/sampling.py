"""Batched sampling with a KV cache, and trajectories of token ids.

Every conversation is token ids from start to end: a turn that was sampled is never decoded and tokenised again, because
that changes ids under the policy's feet. chat.py makes the ids around sampled turns, `sample` the turns themselves.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from tqdm import tqdm
from transformers import Cache

from common import is_first_rank, rng
from introspection.cache import growing_cache, hole_filling, rows_of, rows_within
from introspection.replay import Replay, replayable

MIN_PART = 128  # rows that are sampled together are at least so many,
MAX_PADDING = 1.05  # or padded by no more than that
FREE_ROWS = 64  # on a GPU so many rows take hardly longer than one, and dropping rows means a new capture
COMPACT_AT = 7 / 8  # finished rows are dropped when an eighth has finished; more often gains nothing measurable
MAX_ROWS = 1024  # of one batch
TOLD_OF_CONTEXT = WeakSet()  # models of which it was said that prompts are too long for them
FITTING_TOKENS = WeakKeyDictionary()  # of a model that ran out of memory: rows x tokens tried from then on


@dataclass
class Completion:
    """One model turn.

    `ids` with its terminator, `logprobs` (T,) of those that were sampled at the sampling temperature, `finished` if it
    ended. The last `appended` ids were not sampled (scored.py); `chances`: of the options, where they were scored.
    """

    ids: list[int]
    logprobs: list[float]
    finished: bool
    appended: int = 0
    chances: list[float] | None = None

    @property
    def segments(self) -> list[tuple[list[int], bool]]:
        """Its ids as segments of a trajectory: what was appended is never trained."""
        sampled = len(self.ids) - self.appended
        parts = [(self.ids[:sampled], True), (self.ids[sampled:], False)]
        return [(ids, trained) for ids, trained in parts if ids]


@dataclass
class Trajectory:
    """A conversation as the policy saw it: prompt ids, then segments of (ids, trained)."""

    prompt_ids: list[int]
    segments: list[tuple[list[int], bool]] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + [token for ids, _ in self.segments for token in ids]

    @property
    def loss_mask(self) -> list[bool]:
        """True exactly at sampled tokens that are trained, terminator included.

        From lengths, never from token values.
        """
        return [False] * len(self.prompt_ids) + [trained for ids, trained in self.segments for _ in ids]


def noise(keys: list[tuple[int, ...]], max_new_tokens: int) -> torch.Tensor:
    """One uniform number in [0, 1) per row and position, (rows, max_new_tokens) float64.

    A row depends on its key alone.
    """
    return torch.from_numpy(np.stack([rng(*key).random(max_new_tokens) for key in keys]))


def inverse_cdf(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, warp: Callable | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (rows,) and their log-probabilities (rows,) at `temperature` (0 is greedy).

    logits: (rows, V); uniform: (rows,) float64; warp: what is done to the log-probabilities (rows, V) after the
    temperature, such as a truncation. The token is where the float64 cumulative distribution passes the uniform number:
    unbiased, reproducible whatever the batch, and cheaper than multinomial or Gumbel noise at V = 262,144.
    """
    tokens, logprobs = [], []
    # Bounds the float64 copy. On a CPU 64 rows of V = 262,144 at once take three times as long; a GPU's cumsum takes
    # 64 rows as fast as 32.
    most, elements = (1024, 2**26) if logits.is_cuda else (64, 2**21)
    size = max(1, min(most, elements // logits.shape[-1]))
    for part, u in zip(logits.split(size), uniform.split(size), strict=True):
        part = part if part.dtype == torch.float64 else part.float()
        logp = torch.log_softmax(part / (temperature or 1.0), dim=-1)  # (size, V)
        if warp:
            logp = warp(logp)
        if temperature == 0:
            token = part.argmax(-1)
        else:
            cdf = logp.to(torch.float64, copy=True).exp_()
            torch.cumsum(cdf, -1, out=cdf)
            token = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True)[:, 0].clamp(max=part.shape[-1] - 1)
        tokens.append(token)
        logprobs.append(logp.gather(1, token[:, None])[:, 0])
    return torch.cat(tokens), torch.cat(logprobs)


def shared_prefixes(prompts: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Groups prompts that share at least a third of their tokens: (prefix of each group, group of each prompt).

    Every prompt keeps at least one token beyond its prefix, because its logits have to be computed.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    prefixes, group_of = [], [0] * len(prompts)
    for i in order:
        prompt, common = prompts[i], 0
        if prefixes:
            limit = min(len(prefixes[-1]), len(prompt) - 1)
            common = next((k for k in range(limit) if prefixes[-1][k] != prompt[k]), limit)
        if prefixes and 3 * common >= len(prompt):
            prefixes[-1] = prefixes[-1][:common]
        else:
            prefixes.append(prompt[:-1])
        group_of[i] = len(prefixes) - 1
    return prefixes, group_of


def may_share(model, prefixes: list[list[int]], suffixes: list[list[int]], new_tokens: int) -> bool:
    """Whether prompts may share their prefix: exact only while everything fits inside a sliding window.

    Sharing pads between prefix and suffix, and pads take up the window.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return (
        window is None
        or padded_width(prefixes, model.device) + padded_width(suffixes, model.device) + new_tokens <= window
    )


def padded_width(rows: list[list[int]], device: torch.device) -> int:
    """What the rows are padded to.

    Where one key-value head serves all (Gemma 4), CUDA's attention is silently wrong at T = 65.
    """
    width = max(map(len, rows))
    return -(-width // 8) * 8 if device.type == "cuda" else width


def left_pad(rows: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (rows, T) padded on the left with 0, and their mask (rows, T) int64, from lengths."""
    width = padded_width(rows, device)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


@dataclass
class SharedPrefixes:
    """What prompts begin with, run once for all of them.

    In verification that is the question: only the points extend it.
    """

    group_of: dict[tuple[int, ...], int]  # by prompt
    lengths: list[int]  # of each group's prefix, tokens
    cache: Cache
    mask: torch.Tensor  # (groups, T)

    def rest(self, prompt: list[int]) -> list[int]:
        return prompt[self.lengths[self.group_of[tuple(prompt)]] :]


def run_shared_prefixes(model, prompts: list[list[int]], new_tokens: int) -> SharedPrefixes | None:
    """Runs the prefixes that prompts share; None where that saves less than a fifth, is not exact, or memory runs out.

    new_tokens: how many tokens will follow a prompt.
    """
    prefixes, group_of = shared_prefixes(prompts)
    suffixes = [prompt[len(prefixes[group]) :] for prompt, group in zip(prompts, group_of, strict=True)]
    needed = sum(map(len, prefixes)) + sum(map(len, suffixes))
    if needed >= 0.8 * sum(map(len, prompts)) or not may_share(model, prefixes, suffixes, new_tokens):
        return None
    cache = growing_cache(model.config.get_text_config())
    ids, mask = left_pad(prefixes, model.device)
    try:
        forward(model, ids, mask, cache)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    return SharedPrefixes(
        dict(zip(map(tuple, prompts), group_of, strict=True)), [len(prefix) for prefix in prefixes], cache, mask
    )


def prefill(model, prompts: list[list[int]], shared: SharedPrefixes | None) -> tuple[torch.Tensor, Cache, torch.Tensor]:
    """Logits after each prompt (P, V), the cache of the P prompts, and its mask (P, T)."""
    if shared is None:
        cache = growing_cache(model.config.get_text_config())
        ids, mask = left_pad(prompts, model.device)
    else:
        groups = torch.tensor([shared.group_of[tuple(prompt)] for prompt in prompts], device=model.device)
        cache = rows_of(shared.cache, groups)
        ids, mask = left_pad([shared.rest(prompt) for prompt in prompts], model.device)
        mask = torch.cat([shared.mask[groups], mask], dim=1)  # pads may stand between prefix and rest; they are masked
    return forward(model, ids, mask, cache), cache, mask


def forward(model, ids: torch.Tensor, mask: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Extends the cache by `ids` (rows, t); logits after the last token (rows, V). mask: (rows, cached + t)."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1]


@torch.no_grad()
def next_logprobs(model, prompts: list[list[int]], max_rows: int = 256) -> torch.Tensor:
    """Log-probabilities of the token that follows each prompt, (P, V) float32, at temperature 1; max_rows at a time."""
    was_training = model.training
    model.eval()
    try:
        shared = run_shared_prefixes(model, prompts, 0)
        parts = in_parts(lambda part: prefill(model, part, shared)[0], prompts, max_rows)
    finally:
        model.train(was_training)
    return torch.log_softmax(torch.cat(parts).float(), dim=-1)


def rows_at_once(model, most: int, tokens: int, kv_gib: float) -> int:
    """How many rows of so many tokens may run together: no more than whose keys and values fit into kv_gib (on a CPU a
    third of the free memory without it), or than fitted when memory ran out before.
    """
    if kv_gib or model.device.type == "cpu":
        most = min(most, rows_within(model.config.get_text_config(), kv_gib, tokens))
    return max(1, min(most, FITTING_TOKENS.get(model, 2**31) // max(1, tokens)))


def tell_of_context(model, longest: int) -> None:
    """Says on stderr, once for a model, that a prompt and the longest turn after it are more than it was made for."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if known and longest > known and model not in TOLD_OF_CONTEXT and is_first_rank():
        TOLD_OF_CONTEXT.add(model)
        less = "shorten turns (max_new_tokens) or leave long questions out"
        tqdm.write(f"up to {longest} tokens with a turn, but the model knows {known} places: {less}", file=sys.stderr)


@torch.no_grad()  # the paper lost 30 GB to rollouts that kept their graph (collapse cause 5)
def sample(
    model, prompts: list[list[int]], n: int, max_new_tokens: int, temperature: float, eos_ids: list[int],
    noise_keys: list[tuple[int, ...]], max_rows: int = MAX_ROWS, warp: Callable | None = None, kv_gib: float = 0.0,
) -> list[Completion]:  # fmt: skip
    """n completions of each prompt, prompt by prompt.

    noise_keys: one key of integers per completion. Temperature 0 is greedy; `warp` is `inverse_cdf`'s. The model is
    put in eval mode for the duration: in train mode with gradient checkpointing the cache is silently dropped and the
    text is garbage. At most `max_rows` rows run at a time, and on a CPU or with kv_gib no more than whose keys and
    values fit (cache.py), because nothing can be caught there; when memory runs out elsewhere the rows are halved, and
    the model is remembered with what fits. The result is the same.
    """
    rows = [prompt for prompt in prompts for _ in range(n)]
    if len(rows) != len(noise_keys):
        raise ValueError(f"{len(rows)} rows need as many noise keys, got {len(noise_keys)}")
    was_training = model.training
    model.eval()
    longest = max(map(len, rows), default=0) + max_new_tokens
    max_rows = rows_at_once(model, max_rows, longest, kv_gib)
    tell_of_context(model, longest)

    def decode_part(ids: list[int]) -> list[Completion]:
        try:
            return decode(model, [rows[i] for i in ids], [noise_keys[i] for i in ids], *settings)
        except torch.OutOfMemoryError:
            FITTING_TOKENS[model] = len(ids) * longest // 2
            raise

    try:
        completions = [None] * len(rows)
        shared = run_shared_prefixes(model, distinct(rows)[0], max_new_tokens)
        settings = (max_new_tokens, temperature, set(eos_ids), warp, shared)
        for part in similar_lengths([shared.rest(row) for row in rows] if shared else rows):
            for i, completion in zip(part, chain.from_iterable(in_parts(decode_part, part, max_rows)), strict=True):
                completions[i] = completion
        return completions
    finally:
        model.train(was_training)


def similar_lengths(rows: list[list[int]]) -> list[list[int]]:
    """Indices of the rows in parts of similar length.

    Else one long learning point would have all others prefilled as long as it is.
    """
    parts, total = [], 0
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        length = len(rows[i])
        if not parts or (len(parts[-1]) >= MIN_PART and length * (len(parts[-1]) + 1) > MAX_PADDING * (total + length)):
            parts.append([])
            total = 0
        parts[-1].append(i)
        total += length
    return parts


def in_parts(look, rows: list, size: int) -> list:
    """look(part) of at most `size` rows after each other, evenly cut; from where memory runs out, of half as many."""
    found, start = [], 0
    size = -(-len(rows) // -(-len(rows) // size)) if rows else size
    while start < len(rows):
        try:
            found.append(look(rows[start : start + size]))
            start += size
            continue
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2
        torch.cuda.empty_cache()  # here, because the exception holds what the attempt had allocated
    return found


def distinct(rows: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The different prompts among the rows, and which of them each row has."""
    numbers: dict[tuple, int] = {}
    prompt_of = [numbers.setdefault(tuple(row), len(numbers)) for row in rows]
    return [list(prompt) for prompt in numbers], prompt_of


def decode(model, rows, noise_keys, max_new_tokens, temperature, eos_ids, warp, shared) -> list[Completion]:
    """The decoding loop: prefill each distinct prompt once, repeat its cache, drop finished rows as it goes."""
    device = model.device
    prompts, prompt_of = distinct(rows)
    row_prompts = torch.tensor(prompt_of, device=device)
    logits, cache, mask = prefill(model, prompts, shared)
    cache.batch_select_indices(row_prompts)
    logits, mask = logits[row_prompts], mask[row_prompts]  # (R, V), (R, T)
    completions = [Completion([], [], False) for _ in rows]
    live = list(range(len(rows)))  # which completion each row of the batch belongs to
    uniform = noise(noise_keys, max_new_tokens).to(device)
    replays, step = replayable(model, cache, max_new_tokens), None
    for t in range(max_new_tokens):
        tokens, logprobs = inverse_cdf(logits, uniform[live, t], temperature, warp)
        for row, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
            completion = completions[row]
            if not completion.finished:
                completion.ids.append(token)
                completion.logprobs.append(logprob)
                completion.finished = token in eos_ids
        open_rows = [i for i, row in enumerate(live) if not completions[row].finished]
        if not open_rows or t + 1 == max_new_tokens:
            return completions
        compact_at = COMPACT_AT
        if replays:  # dropping rows means a new capture
            compact_at = 1 / 2 if len(live) > FREE_ROWS else 0
        if len(open_rows) <= compact_at * len(live):
            step = logits = None  # frees the graph's memory
            order = hole_filling(open_rows)
            keep = torch.tensor(order, device=device)
            cache.batch_select_indices(keep)
            tokens, mask, live = tokens[keep], mask[keep], [live[i] for i in order]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        if replays:
            if step is None or not step.steps_left:
                step = logits = None
                step = Replay(model, cache, mask)
            logits = step(tokens)
        else:
            logits = forward(model, tokens[:, None], mask, cache)
    return completions
