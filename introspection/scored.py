"""Answers by likelihood, for base models and small ones that follow no format (`shared.answers: scored`).

With a rationale the model's own turn is sampled and cut where it announces an answer; then the whole answer strings of
all options are scored by their summed log-probability, and one is drawn: that is sampling among valid answers.
Without one nothing is decoded: the options' texts are scored by the mean log-probability of their tokens, and the
likeliest is the answer. (Less what an empty question gives them, a small chat model reads points worse: docs/LOG.md.)

What is appended to a turn so that its text states the answer was not sampled, and is never trained.
"""

import bisect
from collections.abc import Sequence

import torch

from common import rng
from introspection import prompts
from introspection.chat import Chat
from introspection.logprobs import head_of
from introspection.sampling import Completion, distinct, in_parts, prefill, rows_at_once, run_shared_prefixes
from tasks.answers import stated_from
from tasks.mcq import Question

ROWS = 64  # prompts whose options are scored at a time


@torch.no_grad()
def continuation_logprobs(
    model, prompt_ids: list[list[int]], continuations: list[list[list[int]]], temperature: float, kv_gib: float = 0.0
) -> list[list[float]]:
    """Summed log-probabilities of several continuations of each prompt, at the sampling temperature.

    What prompts share is run once, each prompt once, and its cache repeated for its continuations: of so many prompts
    at a time as `kv_gib` allows (sampling.sample).
    """
    longest, options = max(len(ids) for part in continuations for ids in part), max(map(len, continuations))
    tokens = longest + max(map(len, prompt_ids))
    size = max(1, rows_at_once(model, ROWS * options, tokens, kv_gib) // options)
    shared = run_shared_prefixes(model, distinct(prompt_ids)[0], longest)
    order = sorted(range(len(prompt_ids)), key=lambda i: len(prompt_ids[i]))  # parts of similar length
    head = head_of(model)

    def look(part: list[int]) -> list[list[float]]:
        logits, cache, mask = prefill(model, [prompt_ids[i] for i in part], shared)
        rows = [(k, ids) for k, i in enumerate(part) for ids in continuations[i]]
        of_prompt = torch.tensor([k for k, _ in rows], device=model.device)
        width = max(len(ids) for _, ids in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for _, ids in rows], device=model.device)  # (R, T)
        given = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for _, ids in rows], device=model.device)
        # The first token is predicted by the prompt, the others by the ones before them.
        first = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
        sums = first[of_prompt, ids[:, 0]]  # (R,)
        if width > 1:
            cache.batch_select_indices(of_prompt)
            before = mask[of_prompt]
            positions = before.sum(-1, keepdim=True) + torch.arange(width - 1, device=model.device)
            hidden = model.get_decoder()(
                input_ids=ids[:, :-1],
                attention_mask=torch.cat([before, given[:, :-1]], dim=1),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state  # (R, T - 1, H)
            owners, places = given[:, 1:].nonzero(as_tuple=True)
            chosen = head.chunks(ids[:, 1:][owners, places][:, None])
            chunks = zip(head.chunks(hidden[owners, places]), chosen, strict=True)
            said = [head.logprobs(h, i, temperature or 1.0)[:, 0] for h, i in chunks]
            sums = sums.index_add(0, owners, torch.cat(said)) if said else sums
        values, parts = sums.tolist(), []
        for i in part:
            parts.append(values[: len(continuations[i])])
            values = values[len(continuations[i]) :]
        return parts

    was_training = model.training
    model.eval()
    try:
        scored = [sums for part in in_parts(look, order, size) for sums in part]
    finally:
        model.train(was_training)
    found: list[list[float]] = [[] for _ in prompt_ids]
    for i, sums in zip(order, scored, strict=True):
        found[i] = sums
    return found


def answer_ids(chat: Chat, view: Question, place: int, own: list[int]) -> list[int]:
    """The turn's end that states an option after what a model wrote of it, its thought ended where it was not."""
    said = prompts.ANSWER.format(text=prompts.plain(view.options[place]), letter=prompts.LETTERS[place])
    said = (prompts.BEFORE_ANSWER if chat.text(own) else "") + said
    return [*chat.close_thought(own), *chat.content_ids(said), chat.end]


def rationale_ids(chat: Chat, ids: list[int], view: Question) -> list[int]:
    """A sampled turn up to where it announces an answer, without its end."""
    if ids and ids[-1] in chat.eos_ids:
        ids = ids[:-1]
    start = stated_from(chat.text(ids), view.options)
    if start is not None:
        k = bisect.bisect_right(range(len(ids) + 1), start, key=lambda k: len(chat.text(ids[:k])))
        ids = ids[: k - 1]
    while ids and chat.text(ids) != chat.text(ids).rstrip():  # what stands before an answer brings its own space
        ids = ids[:-1]
    return ids


def text_scores(
    model, chat: Chat, prompt_ids: list[list[int]], views: Sequence[Question], kv_gib: float = 0.0
) -> list[list[float]]:
    """Mean log-probability of the tokens of each option's text after its prompt."""
    ids_of = {text: chat.content_ids(prompts.plain(text)) for view in views for text in view.options}
    texts = [[ids_of[text] for text in view.options] for view in views]
    sums = continuation_logprobs(model, [ids + chat.close_thought([]) for ids in prompt_ids], texts, 1.0, kv_gib)
    return [[s / len(ids) for s, ids in zip(row, part, strict=True)] for row, part in zip(sums, texts, strict=True)]


def append_answers(
    model,
    chat: Chat,
    temperature: float,
    asked: list[tuple[list[int], Question]],
    said: list[Completion],
    noise_keys: list[tuple[int, ...]],
    rationale: bool,
    kv_gib: float = 0.0,
) -> list[Completion]:
    """The turns `said` with an answer appended by likelihood; asked: (prompt ids, view) of each.

    noise_keys: a key of integers for each draw. Temperature 0, and answers without a rationale, take the likeliest.
    """
    if not asked:
        return []
    if rationale:
        kept = [rationale_ids(chat, c.ids, view) for c, (_, view) in zip(said, asked, strict=True)]
        texts = []
        for own, (_, view) in zip(kept, asked, strict=True):
            texts.append([answer_ids(chat, view, i, own) for i in range(len(view.options))])
        prefixes = [ids + own for (ids, _), own in zip(asked, kept, strict=True)]
        scores = continuation_logprobs(model, prefixes, texts, temperature, kv_gib)
    else:
        kept = [[] for _ in asked]
        unique, place = distinct([ids for ids, _ in asked])  # nothing is drawn: equal prompts have equal answers
        view_of = {k: view for k, (_, view) in zip(place, asked, strict=True)}
        found = text_scores(model, chat, unique, [view_of[k] for k in range(len(unique))], kv_gib)
        scores = [found[k] for k in place]
    answered = []
    for (_, view), own, completion, row, key in zip(asked, kept, said, scores, noise_keys, strict=True):
        chances = torch.softmax(torch.tensor(row, dtype=torch.float64), dim=-1)
        if rationale and temperature:
            place = int(torch.searchsorted(chances.cumsum(-1), rng(*key).random()).clamp(max=len(row) - 1))
        else:
            place = int(chances.argmax())
        end = answer_ids(chat, view, place, own)
        logprobs = completion.logprobs[: len(own)]
        answered.append(Completion(own + end, logprobs, completion.finished, len(end), chances.tolist()))
    return answered
