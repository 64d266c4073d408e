"""reproduce/: the bank of few exchanges, the point that a cluster is given, and the table of rivals."""

import json
import sys
from types import SimpleNamespace

import pytest

from common import ROOT
from reproduce import answers, few, rivals
from tasks.bank import load_questions


def test_the_exchanges_of_a_small_k_are_the_first_of_a_larger_one():
    two, five = few.few(2, "val"), few.few(5, "val")
    train = [[r for r in bank if r["split"] == "train"] for bank in (two, five)]
    assert [len(part) for part in train] == [8, 20]
    assert all(r in train[1] for r in train[0])


def test_a_bank_of_few_exchanges_loads_and_shares_no_question_with_its_test(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in few.few(32, "test_clusters")))
    questions = load_questions(path)
    train, test = ({q.question for q in questions if q.split == split} for split in ("train", "test"))
    assert len(train) == 12 * 32 and len(test) == 240 and not train & test
    assert not any(q.variants for q in questions if q.split == "train")


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


def test_without_introspection_an_explanation_is_told(tmp_path):
    bank = tmp_path / "few.jsonl"
    records = few.few(2, "val")
    bank.write_text("".join(json.dumps(r) + "\n" for r in records))
    train = [r for r in records if r["split"] == "train"]
    for seed in (0, 1):
        assert [t["text"] for t in rivals.told_points(bank, seed)] == [r["explanation"] for r in train[seed::2]]


@pytest.fixture
def runs(tmp_path):
    """Two seeds of three arms at k = 4: dreaming is always right, SDPO half of the time, the start model never."""
    (tmp_path / "4").mkdir()
    records = few.few(4, "val")
    (tmp_path / "4.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    test = [r["id"] for r in records if r["split"] == "test"]
    for seed in (0, 1):
        for arm, right in (("start", 0.0), ("sdpo", 0.5), ("dreamt", 1.0)):
            line = {
                "each": {
                    "test": dict.fromkeys(test, right),
                    "canary": {r["id"]: 1.0 for r in records if r["split"] == "canary"},
                }
            }
            (tmp_path / "4" / f"{arm}-{seed}.json").write_text(json.dumps(line))
    return tmp_path


def test_the_table_compares_cluster_by_cluster(runs):
    table = rivals.together(rivals.collect(runs), [])
    rows = {r["arm"]: r["splits"]["test"] for r in table}
    assert rows["dreamt"]["mean"] == 1.0 and rows["dreamt"]["clusters"] == 4
    assert rows["dreamt"]["against sdpo"]["mean"] == rows["dreamt"]["against sdpo"]["low"] == 0.5
    assert rows["sdpo"]["against start"]["mean"] == 0.5
    assert "p_holm" not in rows["dreamt"]["against sdpo"]  # the primary contrast is not corrected
    assert "Primary contrast, k = 4: ours dreamt minus SDPO, +0.500" in rivals.markdown(table)


def test_what_was_measured_earlier_stays_in_the_table(runs):
    rows = rivals.collect(runs)
    earlier = [r | {"exchanges": "16"} for r in rivals.collect(runs)] + [r | {"arm": "dropped"} for r in rows]
    table = rivals.together(rows, earlier)
    assert [r["exchanges"] for r in table] == ["4"] * 3 + ["16"] * 3 and "dropped" not in {r["arm"] for r in table}
    assert {r["exchanges"] for r in table if "p_holm" in r["splits"]["test"].get("against sdpo", {})} == {"16"}


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
    monkeypatch.setattr(answers, "ask", lambda reader, questions, points, n: asked.append(points) or {"q": 1.0})
    points = tmp_path / "points.jsonl"

    def run(text: str, n: str = "1") -> int:
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
        ]
        monkeypatch.setattr(sys, "argv", words)
        answers.main()
        return len(asked)

    assert [run("one"), run("one"), run("two"), run("two"), run("two", "2")] == [1, 1, 2, 2, 3]
    assert asked[1] == {"kidney-A": "two"}
