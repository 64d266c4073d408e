"""reproduce/: the bank of few exchanges, the point that a cluster is given, and the table of rivals."""

import itertools
import json
import sys
from types import SimpleNamespace

import pytest

from common import ROOT
from introspection import library
from introspection.reader import Reader
from reproduce import answers, exchanges, rivals
from reproduce.few import TUNED_ON, bank_of, few, questions_to_ask
from reproduce.records import write_lines
from tasks.bank import load_questions


def test_the_exchanges_of_a_small_k_are_the_first_of_a_larger_one():
    two, five = few(2, TUNED_ON[:4], 7), few(5, TUNED_ON[:4], 7)
    train = [[r for r in bank if r["split"] == "train"] for bank in (two, five)]
    assert [len(part) for part in train] == [8, 20]
    assert all(r in train[1] for r in train[0])


def test_a_bank_of_few_exchanges_shares_no_question_with_its_test_nor_with_what_was_asked_before(tmp_path):
    path = bank_of(tmp_path, 32, tuning=False)
    questions = load_questions(path)
    by_split = {split: {q.question for q in questions if q.split == split} for split in ("train", "test")}
    assert len(by_split["train"]) == 12 * 32 and len(by_split["test"]) == 240
    assert not by_split["train"] & by_split["test"] and not any(q.variants for q in questions if q.split == "train")
    published = load_questions(ROOT / "data/bank.jsonl")
    assert not {q.question for q in published} & (by_split["train"] | by_split["test"])
    # What settings were tuned on is none of these clusters.
    taught = {q.cluster for q in questions if q.split == "train"}
    assert taught == {q.cluster for q in published if q.split == "test_clusters"}
    # What is asked in the end is of the same clusters, and nothing that was learnt from or asked before.
    asked = load_questions(questions_to_ask(tmp_path))
    texts = {q.question for q in asked if q.split == "test"}
    assert len(texts) == 240 and {q.cluster for q in asked if q.split == "test"} == taught
    assert not texts & (by_split["train"] | by_split["test"] | {q.question for q in published})
    assert not taught & set(TUNED_ON) and len(TUNED_ON) == len(taught)


def point(text: str, question: str, right: float, leak: bool = False) -> dict:
    verified = [{"question_id": "v", "acc_with": right, "acc_without": 0.5, "n": 4}]
    return {
        "text": text,
        "question_id": question,
        "cluster": question[0],
        "leak": leak,
        "meta_gaming": False,
        "count": 1,
        "verified_on": verified,
        "ci95": [right - 0.9, right],
    }


def test_a_wording_of_several_questions_is_judged_by_all_its_samples():
    # Two of three samples of 'the limit is 5' are worse than the single one of 'the limit is 7', but certain.
    records = [point("the limit is 5", f"a{i}", 1.0) for i in range(6)] + [
        point("the limit is 7", "a9", 1.0),
        point("it is (B)", "a8", 1.0, leak=True),
    ]
    (chosen,) = rivals.best_points(records)
    assert chosen["text"] == "the limit is 5" and chosen["question_id"] == "a0" and chosen["count"] == 6


def test_a_composite_is_told_the_points_of_both_its_clusters():
    questions = [
        q
        for q in load_questions(ROOT / "data/bank.jsonl")
        if q.cluster in ("kidney-A+celiac-B", "kidney-A", "sepsis-A")
    ]
    told = {}
    reader = SimpleNamespace(
        prompt=lambda view, point: told.setdefault(view.cluster, point),
        sample=lambda prompts, phase: [SimpleNamespace(ids=[])] * len(prompts),
        chat=SimpleNamespace(text=lambda ids: ""),
    )
    assert set(answers.ask(reader, questions, {"kidney-A": "one", "celiac-B": "two"}, 1).values()) == {0.0}
    assert told == {"kidney-A+celiac-B": "one. two", "kidney-A": "one", "sepsis-A": None}


def test_answers_to_other_questions_are_no_evidence(tmp_path):
    questions = [q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "test"][:2]
    asked = {"splits": "test", "bank": answers.fingerprint(questions), "each": {"test": {q.id: 0.5 for q in questions}}}
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(asked))
    assert answers.read_answers(path, questions) == {"test": {questions[0].cluster: [0.5, 0.5]}}
    with pytest.raises(SystemExit, match="answers to other questions"):
        answers.read_answers(path, questions[:1])


def test_every_exchange_has_its_explanation_or_its_clusters_text(tmp_path):
    path = bank_of(tmp_path, 2, tuning=False)
    write_lines(tmp_path / "library.jsonl", rivals.every_exchange(path, {}))
    records, taught = (
        library.load_library(tmp_path / "library.jsonl"),
        [q for q in load_questions(path) if q.split == "train"],
    )
    assert [r["text"] for r in records] == [q.explanation for q in taught]
    assert library.point_of(taught[0].id, records) == taught[0].explanation
    told = [r["text"] for r in rivals.every_exchange(path, {taught[0].cluster: "a point"})]
    assert told == ["a point"] * 2 + [q.explanation for q in taught[2:]]


def lines_of_two_seeds() -> list[dict]:
    """Ours is right in all questions of three clusters, GRPO in half, SDPO in a quarter; the start model never."""
    right = {"start": [0, 0, 0, 0], "ours": [1, 1, 1, 1], "grpo": [1, 1, 0, 0], "sdpo": [1, 0, 0, 0]}
    each = {arm: {split: dict.fromkeys("abc", values) for split in ("test", "canary")} for arm, values in right.items()}
    lines = [{"run": {"k": 1, "method": "start", "seed": 0}, "arms": {"start": {"each": each["start"]}}}]
    for k, seed, arm in itertools.product((1, 4, 16), (0, 1), ("ours", "grpo", "sdpo")):
        arms = {arm: {"each": each[arm], "step": 8, "generated_tokens": 10 * k, "trained_tokens": k, "seconds": 1}}
        lines.append({"run": {"k": k, "method": arm, "seed": seed}, "arms": arms})
    return [line | {"commit": "0" * 40} for line in lines]


def test_ours_is_held_against_the_rival_that_was_best_where_it_was_tuned(monkeypatch):
    monkeypatch.setattr(exchanges, "BEST", {1: "sdpo", 4: "grpo", 16: "grpo"})
    records = exchanges.records_of(lines_of_two_seeds())
    assert records["primary"]["mean"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    at = {(r["arm"], r["k"]): r for r in records["rows"]}
    assert at["ours", 4]["minus sdpo"]["mean"] == 0.75 and at["ours", 4]["minus sdpo"]["p_holm"] == 1.0
    assert at["grpo", 4]["canary change"]["mean"] == 0.5 and at["ours", 16]["cost"][0]["generated_tokens"] == 160
    text = "\n".join(
        "\n".join(b) if isinstance(b, list) else b for b in exchanges.blocks(lines_of_two_seeds(), records)
    )
    assert (
        "mean over k = 1, 4, 16: +0.583" in text
        and "2, 8, 32: not run" in text
        and "| GRPO | 16 | 8 | 160 | 16 | 1 |" in text
    )


def test_numbers_of_exchanges_that_lack_a_seed_wait():
    lines = [r for r in lines_of_two_seeds() if r["run"] != {"k": 16, "method": "sdpo", "seed": 1}]
    told, ks = exchanges.complete(lines)
    assert ks == [1, 4] and {r["run"]["k"] for r in told} == {1, 4}
    assert sum(r["run"]["method"] == "start" for r in told) == 1
    told = [r for r in told if r["run"]["method"] != "explanations"]
    dreamt = [{"run": {"k": 4, "seed": seed, "method": "explanations"}} for seed in (0, 1)]
    assert exchanges.complete(told + dreamt[:1])[0] == told and exchanges.complete(told + dreamt)[0] == told + dreamt


def test_ours_is_held_against_rivals_of_the_bank_with_holm():
    rows = [{"arm": "start", "cost": [{}], "splits": {"test": {"mean": 0.1, "low": 0, "high": 1, "seeds": [0.1]}}}]
    for arm, p in (("dreamt", 0.01), ("by-threshold", 0.04)):
        e = {"mean": 0.5, "low": 0.4, "high": 0.6, "p": p, "seeds": [0.5, 0.5]}
        rows.append(
            {"arm": arm, "cost": [{"generated_tokens": 2000}], "splits": {"test": e | {"against sdpo": dict(e)}}}
        )
    found = [r["splits"]["test"]["against sdpo"]["p_holm"] for r in rivals.with_holm(rows)[1:]]
    assert found == [0.02, 0.04]
    page = rivals.markdown(rows)
    assert "Ours dreamt minus SDPO, +0.500 [+0.400, +0.600], p = 0.0200 (Holm)" in page
    assert "| nothing | start model |" in page and "| ours: stage 2, recalled by threshold, 1 seed |" in page


def test_likeliest_answers_are_held_against_likeliest_answers():
    arms = {"start": 0.0, "start-greedy": 0.1, "grpo": 0.2, "grpo-greedy": 0.6, "dreamt": 0.3, "dreamt-greedy": 0.5}
    found = {arm: [{"splits": {"test": {c: [right] * 2 for c in "abc"}}}] for arm, right in arms.items()}
    told = {arm: rivals.compare(found, arm, "test") for arm in arms}
    assert told["dreamt"]["against grpo"]["mean"] == pytest.approx(0.1)
    assert told["dreamt-greedy"]["against grpo"]["mean"] == pytest.approx(-0.1)
    assert told["grpo-greedy"]["against start"]["mean"] == pytest.approx(0.5) and "against grpo" not in told["grpo"]
    assert not any("against start" in told[arm] for arm in ("start", "start-greedy"))


def test_the_cost_of_a_run_is_what_its_log_says(tmp_path):
    (tmp_path / "sdpo").mkdir()
    steps = [
        {"time/step": 2.0, "generated_tokens": 10, "trained_tokens": 4},
        {"time/step": 3.0, "generated_tokens": 25, "trained_tokens": 9},
    ]
    (tmp_path / "sdpo/metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    assert rivals.cost(tmp_path) == {"generated_tokens": 25, "trained_tokens": 9, "seconds": 5.0}


def test_answers_are_kept_while_weights_and_points_are_the_same(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(answers, "ask", lambda reader, questions, points, *_: asked.append(points) or {"q": 1.0})
    points = tmp_path / "points.jsonl"

    def run(text: str, n: str = "1", *more: str) -> int:
        points.write_text(json.dumps({"cluster": "kidney-A", "text": text}) + "\n")
        words = [
            "answers.py",
            "organism/weights",
            "--splits",
            "test",
            "--n",
            n,
            "--points",
            str(points),
            "--out",
            str(tmp_path / "a.json"),
            *more,
        ]
        monkeypatch.setattr(sys, "argv", words)
        answers.main()
        return len(asked)

    assert [run("one"), run("one"), run("two"), run("two"), run("two", "2")] == [1, 1, 2, 2, 3]
    assert asked[1] == {"kidney-A": "two"}
    # A model that recalls by its threshold says other things than one whose turns are sampled.
    assert [run("two", "2", "--recall"), run("two", "2", "--recall"), run("two", "2")] == [4, 4, 5]


def test_a_model_that_recalls_by_threshold_goes_on_after_its_likeliest_point(organism):
    questions = [q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "test"][:2]
    reader, asked = Reader(*organism, 1.0, 24, (0, 0, 1), fire_at=0.0), []

    def sample(prompt_ids, phase, *_, temperature=None):
        asked.append((prompt_ids, temperature))
        text = "recall>urgent from 150</recall>Answer: x (A)" if temperature == 0.0 else "Answer: none (A)"
        ids = reader.chat.content_ids(f"<{text}")[1 if temperature == 0.0 else 0 :]
        return [SimpleNamespace(ids=ids)] * len(prompt_ids)

    reader.sample = sample
    answers.ask(reader, questions, {}, 2, recall=True)
    (begun, cold), (gone_on, warm) = asked
    assert (cold, warm, len(begun), len(gone_on)) == (0.0, None, 4, 4)
    recalled = reader.chat.content_ids("<recall>urgent from 150</recall>")
    assert all(ids[-len(recalled) :] == recalled for ids in gone_on)
    assert [ids[: 1 - len(recalled)] for ids in gone_on] == begun
