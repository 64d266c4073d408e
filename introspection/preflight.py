"""A few questions before the first step: does this model answer in a form that can be read, and does it read points?

What cannot work ends the run in one line that says what to change; `preflight: false` goes on nevertheless.
"""

import time

from common import ROOT, RolloutPhase, Shared, UserError, busy, draw_some, rng
from introspection import screen
from introspection.chat import Chat
from introspection.logprobs import check_scorer
from introspection.reader import Reader
from tasks.mcq import Question, grade, letter_in, same_views

QUESTIONS, ORDERS = 8, 2
KNOWN_WORDS = 2.0  # tokens a word above which a bank is in words that the bundled model does not know (its own: 1.25)


def check_bank(cfg: Shared, chat: Chat, questions: list[Question]) -> None:
    """Raises UserError for the bundled model with a bank in other words: it knows only its own world."""
    bundled = (ROOT / cfg.model).resolve().is_relative_to(ROOT / "organism")
    texts = [" ".join((q.question, *q.options)) for q in questions[:200]]
    words, tokens = sum(len(text.split()) for text in texts), sum(len(chat.content_ids(text)) for text in texts)
    if bundled and tokens > KNOWN_WORDS * words:
        raise UserError(f"{cfg.questions}: the bundled model knows only the bundled world; set shared.model")


def deciding_point(question: Question) -> str:
    """A point that states what decides a question: its explanation, or else the right option."""
    return question.explanation or f"What decides here speaks for: {question.options[question.answer]}."


@busy("preflight")
def preflight(cfg: Shared, reader: Reader, questions: list[Question]) -> None:
    """Asks QUESTIONS of them in ORDERS orders, without a point and with one that states what decides; prints two whole
    turns and what was measured. Raises UserError for what cannot work. cfg: the settings of stage 1.
    """
    check_scorer(reader.model, reader.chat)
    chosen = draw_some(questions, QUESTIONS, rng(cfg.seed, 2))
    views = [v for i, q in enumerate(chosen) for v in same_views(q, ORDERS, rng(*reader.key, RolloutPhase.VIEWS, i))]
    started, measured = time.perf_counter(), []
    for points in ([None for _ in views], [deciding_point(view) for view in views]):
        prompt_ids = [reader.prompt(view, point) for view, point in zip(views, points, strict=True)]
        turns = reader.answer(prompt_ids, views, RolloutPhase.ATTEMPTS)
        texts = [reader.chat.text(turn.ids) for turn in turns]
        measured.append({
            "read": sum(letter_in(text, view.options) is not None for text, view in zip(texts, views, strict=True)),
            "right": sum(grade(text, view) for text, view in zip(texts, views, strict=True)) / len(views),
            "clipped": sum(not turn.finished for turn in turns),
            "shown": reader.chat.tokenizer.decode(prompt_ids[0] + turns[0].ids),
        })  # fmt: skip
    seconds, n = time.perf_counter() - started, len(views)
    alone, told = measured
    print("preflight: a turn without a point, and one with a point that states what decides, as the model sees them")
    for side in measured:
        print("\n".join(f"  | {line}" for line in side["shown"].splitlines()))
    limit = f"cut off at {cfg.max_new_tokens} tokens: {alone['clipped'] + told['clipped']} of {2 * n}"
    print(f"preflight: answers read: {alone['read'] + told['read']} of {2 * n}; {limit}")
    print(f"preflight: accuracy without a point {alone['right']:.2f}, with one {told['right']:.2f} ({n} answers each)")
    speed = f"{reader.generated / seconds:.0f} generated tokens a second" if reader.generated else "nothing generated"
    print(f"preflight: {seconds:.0f} s, {speed}{screen.peak_memory()}")
    if alone["clipped"] + told["clipped"] > n:
        more = f"{limit}; raise grpo_introspect.max_new_tokens"
        raise UserError(f"preflight: answers are {more}, or set shared.answers: scored")
    if alone["read"] + told["read"] < n:
        how = "use shared.prompts: plain, or shared.answers: scored"
        raise UserError(f"preflight: {alone['read'] + told['read']} of {2 * n} answers state an option; {how}")
    if told["right"] <= alone["right"] and told["right"] < 0.5:
        scores = f"accuracy {told['right']:.2f} with one that states what decides, {alone['right']:.2f} without"
        how = "use a larger model, shared.answers: scored or shared.rationale: false, or go on with preflight: false"
        raise UserError(f"preflight: points are not read ({scores}); {how}")
