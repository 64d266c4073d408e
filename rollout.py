"""Batched sampling with a KV cache, and trajectories of token ids.

Every conversation is token ids from start to end: a turn that was sampled is never decoded and tokenised again, because
that changes ids under the policy's feet. `Chat` makes the ids around sampled turns, `sample` the turns themselves.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import Cache

from cache import growing_cache
from common import UserError, rng

SYSTEM_MARK = "the-system-turn"
THINKING = [("<think>", "</think>"), ("<|channel>", "<channel|>")]


@dataclass
class Completion:
    """One sampled model turn: `ids` with its terminator, `logprobs` (T,) at the sampling temperature, `finished` if it ended."""

    ids: list[int]
    logprobs: list[float]
    finished: bool


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
        """True exactly at sampled tokens that are trained, terminator included. From lengths, never from token values."""
        return [False] * len(self.prompt_ids) + [trained for ids, trained in self.segments for _ in ids]


class Chat:
    """Ids of the user turns of a tokenizer's chat template, cut out of one rendered example.

    Template text may hold control tokens; content is encoded with `split_special_tokens`, so that it never does.
    Raises UserError if the template does not keep turn contents verbatim and in order.
    """

    def __init__(self, tokenizer, eos_ids: list[int], system: str = ""):
        self.tokenizer, self.eos_ids, self.preface = tokenizer, set(eos_ids), ""
        marks = ["first-user-turn", "first-model-turn", "second-user-turn"]
        roles = ["user", "assistant", "user"]
        if tokenizer.chat_template is None:
            raise UserError("the tokenizer has no chat template; expected an instruction-tuned model")
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = self._render([{"role": "system", "content": SYSTEM_MARK}, *messages]) if system else ""
        if SYSTEM_MARK not in text:  # a template without that role refuses it or drops it
            text, self.preface = self._render(messages), f"{system}\n\n" if system else ""
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                raise UserError("the chat template does not keep turn contents verbatim, so turns cannot be continued by ids")
            pieces.append(before)
        opening, _, between = pieces
        before, found, after = opening.partition(SYSTEM_MARK)
        self.between, self.closing = self._template_ids(between), self._template_ids(text)
        if self.between[0] in tokenizer.all_special_ids:  # the template's own end of turn ends a sampled turn too
            self.eos_ids.add(self.between[0])
        # Added tokens that are not special (such as </think>) are matched in any text; content is cut inside them.
        added = [re.escape(str(token)) for token in tokenizer.added_tokens_decoder.values() if len(str(token)) > 1]
        self.control = re.compile("|".join(added) or r"(?!)")
        self.opening = self._template_ids(before) + (self.content_ids(system) if found else []) + self._template_ids(after)
        # Ids that open and close a stretch of thinking (Qwen 3, Gemma 4); what stands between them is not the answer.
        known = tokenizer.get_vocab()
        self.thinking = [(known[a], known[b]) for a, b in THINKING if a in known and b in known]

    def _render(self, messages: list[dict]) -> str:
        """Templates may print today's date or open a thinking block; a resumed run needs the same prompts tomorrow."""
        fixed = {"date_string": "01 Jan 2026", "enable_thinking": False}
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **fixed)
        except TemplateError as error:
            if messages[0]["role"] == "system":
                return ""
            raise UserError(f"the chat template refuses a conversation of user and assistant turns: {error}") from error

    def _template_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def content_ids(self, text: str) -> list[int]:
        """Ids of text as data: none of them is a control token, whatever the text says."""
        pieces, start = [], 0
        for match in self.control.finditer(text):
            pieces.append(text[start : match.start() + 1])
            start = match.start() + 1
        encode = [self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids for piece in (*pieces, text[start:])]
        return [token for ids in encode for token in ids]

    def first(self, content: str) -> list[int]:
        """Prompt ids of a fresh conversation: opening, user turn, generation prompt."""
        return self.opening + self.content_ids(self.preface + content) + self.closing

    def next(self, completion_ids: list[int], content: str) -> list[int]:
        """Ids between a sampled turn and the next one: its terminator unless it was sampled, user turn, generation prompt."""
        ended = bool(completion_ids) and completion_ids[-1] in self.eos_ids and completion_ids[-1] == self.between[0]
        return self.between[ended:] + self.content_ids(content) + self.closing

    def text(self, ids: list[int]) -> str:
        """What was said, without control tokens and without thinking; a thought that was cut off leaves nothing after it."""
        for start, end in self.thinking:
            while start in ids or end in ids:
                closed = ids.index(end) if end in ids else len(ids)
                opened = ids.index(start) if start in ids[:closed] else 0  # a template may have opened it in the prompt
                ids = ids[:opened] + ids[closed + 1 :]
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def noise(keys: list[tuple[int, ...]], max_new_tokens: int) -> torch.Tensor:
    """One uniform number in [0, 1) per row and position, (rows, max_new_tokens) float64; a row depends on its key alone."""
    return torch.from_numpy(np.stack([rng(*key).random(max_new_tokens) for key in keys]))


def inverse_cdf(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (rows,) and their log-probabilities (rows,) at `temperature` (0 is greedy).

    logits: (rows, V); uniform: (rows,) float64. The token is where the float64 cumulative distribution passes the uniform
    number: unbiased, reproducible whatever the batch, and cheaper than multinomial or Gumbel noise at V = 262,144.
    """
    tokens, logprobs = [], []
    for part, u in zip(logits.split(64), uniform.split(64), strict=True):  # bounds the float64 copy: 64 x V
        part = part if part.dtype == torch.float64 else part.float()
        logp = torch.log_softmax(part / (temperature or 1.0), dim=-1)  # (64, V)
        if temperature == 0:
            token = part.argmax(-1)
        else:
            cdf = logp.double().exp().cumsum(-1)
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
    """Sharing pads between prefix and suffix, and pads take up a sliding window: exact only while all of it fits inside."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return window is None or max(map(len, prefixes)) + max(map(len, suffixes)) + new_tokens <= window


def left_pad(rows: list[list[int]], device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (rows, T) padded on the left with 0, and their mask (rows, T) int64, from lengths."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def prefill(model, prompts: list[list[int]], new_tokens: int = 0) -> tuple[torch.Tensor, Cache, torch.Tensor]:
    """Logits after each prompt (P, V), the cache of the P prompts, and its mask (P, T). Shared prefixes run once.

    In verification all points of a question share the question: it is prefilled once and only the points extend it.
    new_tokens: how many tokens will follow.
    """
    cache = growing_cache(model.config.get_text_config())
    prefixes, group_of = shared_prefixes(prompts)
    suffixes = [prompt[len(prefixes[group]) :] for prompt, group in zip(prompts, group_of, strict=True)]
    shared = sum(map(len, prefixes)) + sum(map(len, suffixes))
    if shared > 0.8 * sum(map(len, prompts)) or not may_share(model, prefixes, suffixes, new_tokens):
        ids, mask = left_pad(prompts, model.device)
    else:
        ids, mask = left_pad(prefixes, model.device)
        forward(model, ids, mask, cache)
        rows = torch.tensor(group_of, device=model.device)
        cache.batch_select_indices(rows)
        ids, suffix_mask = left_pad(suffixes, model.device)
        mask = torch.cat([mask[rows], suffix_mask], dim=1)  # pads may stand between prefix and suffix; they are masked
    return forward(model, ids, mask, cache), cache, mask


def forward(model, ids: torch.Tensor, mask: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Extends the cache by `ids` (rows, t); logits after the last token (rows, V). mask: (rows, cached + t)."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1]


@torch.no_grad()
def next_logprobs(model, prompts: list[list[int]], max_rows: int = 256) -> torch.Tensor:
    """Log-probabilities of the token that follows each prompt, (P, V) float32, at temperature 1; max_rows at a time."""
    was_training = model.training
    model.eval()
    try:
        parts = [prefill(model, prompts[i : i + max_rows])[0] for i in range(0, len(prompts), max_rows)]
    finally:
        model.train(was_training)
    return torch.log_softmax(torch.cat(parts).float(), dim=-1)


@torch.no_grad()  # the paper lost 30 GB to rollouts that kept their graph (collapse cause 5)
def sample(
    model, prompts: list[list[int]], n: int, max_new_tokens: int, temperature: float, eos_ids: list[int],
    noise_keys: list[tuple[int, ...]], max_rows: int = 1024,
) -> list[Completion]:  # fmt: skip
    """n completions of each prompt, prompt by prompt.

    noise_keys: one key of integers per completion. Temperature 0 is greedy. The model is put in eval mode for the duration:
    in train mode with gradient checkpointing the cache is silently dropped and the text is garbage. At most `max_rows` rows
    run at a time; when memory runs out the rows are halved, with the same result.
    """
    rows = [prompt for prompt in prompts for _ in range(n)]
    if len(rows) != len(noise_keys):
        raise ValueError(f"{len(rows)} rows need as many noise keys, got {len(noise_keys)}")
    was_training = model.training
    model.eval()
    try:
        return sample_rows(model, rows, max_new_tokens, temperature, set(eos_ids), noise_keys, max_rows)
    finally:
        model.train(was_training)


def sample_rows(model, rows, max_new_tokens, temperature, eos_ids, noise_keys, max_rows) -> list[Completion]:
    """Decodes in parts of at most max_rows, in halves where memory runs out: noise is keyed, so the result is the same."""
    if not rows:
        return []
    if len(rows) <= max_rows:
        try:
            return decode(model, rows, max_new_tokens, temperature, eos_ids, noise(noise_keys, max_new_tokens))
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            torch.cuda.empty_cache()
    half = min(max_rows, (len(rows) + 1) // 2)
    settings = (max_new_tokens, temperature, eos_ids)
    return sample_rows(model, rows[:half], *settings, noise_keys[:half], half) + sample_rows(
        model, rows[half:], *settings, noise_keys[half:], half
    )


def decode(model, rows, max_new_tokens, temperature, eos_ids, uniform) -> list[Completion]:
    """The decoding loop: prefill each distinct prompt once, repeat its cache, drop finished rows as it goes."""
    device = model.device
    distinct = {tuple(row): None for row in rows}
    prompt_of = {prompt: i for i, prompt in enumerate(distinct)}
    row_prompts = torch.tensor([prompt_of[tuple(row)] for row in rows], device=device)
    logits, cache, mask = prefill(model, [list(prompt) for prompt in distinct], max_new_tokens)
    cache.batch_select_indices(row_prompts)
    logits, mask = logits[row_prompts], mask[row_prompts]  # (R, V), (R, T)
    completions = [Completion([], [], False) for _ in rows]
    live = list(range(len(rows)))  # which completion each row of the batch belongs to
    uniform = uniform.to(device)
    for t in range(max_new_tokens):
        tokens, logprobs = inverse_cdf(logits, uniform[live, t], temperature)
        for row, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
            completion = completions[row]
            if not completion.finished:
                completion.ids.append(token)
                completion.logprobs.append(logprob)
                completion.finished = token in eos_ids
        open_rows = [i for i, row in enumerate(live) if not completions[row].finished]
        if not open_rows or t + 1 == max_new_tokens:
            return completions
        if 8 * len(open_rows) <= 7 * len(live):  # a copy of the cache costs about one step: wait for an eighth to finish
            keep = torch.tensor(open_rows, device=device)
            cache.batch_select_indices(keep)
            tokens, mask, live = tokens[keep], mask[keep], [live[i] for i in open_rows]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        logits = forward(model, tokens[:, None], mask, cache)
    return completions
