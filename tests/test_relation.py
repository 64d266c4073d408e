"""reproduce/relation.py: how long an exchange and its artefact are, and what share of the sampled tokens is trained."""

import json

import pytest

from common import ROOT
from introspection import prompts
from introspection.models import load_chat
from reproduce import relation
from tasks.bank import load_questions

BANK = load_questions(ROOT / "data/bank.jsonl")


@pytest.fixture(scope="module")
def chat():
    return load_chat("organism/weights")


def write(path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def test_tokens_of_an_exchange_are_those_of_the_conversation_up_to_the_point(tmp_path, chat):
    question, attempt, text = BANK[0], "urgent referral (B)", "give fluids"
    rollout = {"question_id": question.id, "attempt": attempt, "source": "loser"}
    early = rollout | {
        "step": 1,
        "text": "a much longer point of an early step, not counted",
        "completion": "one two",
        "advantage": 0.5,
    }
    late = rollout | {
        "step": 10,
        "text": text,
        "completion": prompts.INTROSPECTION.format(point=text),
        "advantage": 0.0,
    }
    write(tmp_path / "rollouts.jsonl", [early, late, late | {"text": None}])
    seconds = {f"time/rollout{i}": 1.0 for i in (1, 2, 3)}
    write(tmp_path / "metrics.jsonl", [{"step": step, "tokens_per_second": 2.0} | seconds for step in range(1, 11)])
    row = relation.ours([tmp_path], chat)
    told = prompts.reflection_turn(
        False, question.letter, question.options[question.answer], prompts.told(question.explanation)
    )
    said = [question.turn, attempt, told]
    turns = [{"role": role, "content": words} for role, words in zip(("user", "assistant", "user"), said, strict=True)]
    whole = chat.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert row["exchange"] == len(chat.tokenizer(whole, add_special_tokens=False).input_ids)
    assert row["artefact"] == len(chat.content_ids(text))
    assert row["share"] == (len(chat.content_ids("one two")) + 1) / 60  # only a point with an advantage is trained


def test_a_rival_leaves_its_playbook_or_its_summaries_or_nothing(tmp_path, chat):
    steps = [
        {"generated_tokens": 10, "trained_tokens": 4},
        {"generated_tokens": 40, "trained_tokens": 20, "summaries/mean_length": 7.0},
    ]
    for arm, last in (("resd", 1), ("grpo", 2), ("sdpo", 1)):
        write(tmp_path / f"{arm}-0/{arm}/metrics.jsonl", steps[:last])
    write(tmp_path / "resd-0/resd/playbook.jsonl", [{"text": "give fluids"}, {"text": "give"}])
    rows = {arm: relation.theirs([tmp_path / f"{arm}-0"], chat) for arm in ("resd", "grpo", "sdpo")}
    assert rows["resd"] == {
        "share": 0.4,
        "artefact": (len(chat.content_ids("give fluids")) + len(chat.content_ids("give"))) / 2,
    }
    assert rows["grpo"] == {"share": 0.5, "artefact": 7.0}
    assert rows["sdpo"] == {"share": 0.4}
    effect = {"mean": 0.1, "low": 0.0, "high": 0.2}
    rows = [
        rows[arm] | {"arm": arm, "what": arm, "seeds": 2, "in the weights": {"test": effect, "test_clusters": effect}}
        for arm in ("resd", "sdpo")
    ]
    table = relation.markdown(rows)
    assert "+0.10 [+0.00, +0.20]" in table and "2 seeds" in table and "none, weights" in table
