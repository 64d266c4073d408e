"""reproduce/rare.py: curves over generated tokens, and the table of rare success."""

import json
import sys

import pytest

from common import ROOT
from reproduce import dreaming, hard, rare, retry


def write(stage, accuracies: list[float], tokens: int) -> None:
    """A stage of two steps, evaluated before, between and after: four problems, all of the same accuracy."""
    stage.mkdir(parents=True)
    evaluations = [
        {"step": k, "accuracy": {}, "each": {"test": dict.fromkeys("abcd", right), "canary": {"c": 0.5}}}
        for k, right in enumerate(accuracies)
    ]
    steps = [{"step": k, "generated_tokens": k * tokens, "trained_tokens": k, "time/step": 1.0} for k in (1, 2)]
    for name, records in (("eval.jsonl", evaluations), ("metrics.jsonl", steps)):
        (stage / name).write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def runs(tmp_path):
    for task, arms in (("bank", rare.ARMS), ("countdown", ("grpo", "sdpo-8"))):
        for arm, seed in ((arm, seed) for arm in arms for seed in (0, 1)):
            home = tmp_path / task / f"{arm}-{seed}"
            if arm == "resd-then-grpo":
                write(home / "resd", [0.0, 0.1, 0.2], 10)
                write(home / "grpo", [0.2, 0.5, 1.0], 100)
            else:
                name = arm.split("-")[0]
                write(
                    home / ("resd" if arm == "sdpo-1-context" else name),
                    [0.0, 0.25, 0.5],
                    {"resd": 10, "sdpo": 40, "grpo": 80}[name],
                )
    (tmp_path / "bank.jsonl").write_text(
        "".join(json.dumps({"id": name, "cluster": "x" if name in "abc" else "y"}) + "\n" for name in "abcd")
    )
    return tmp_path


def test_on_the_bank_a_cluster_counts_once():
    each = dict(zip("abcd", (0.0, 0.0, 0.3, 0.9), strict=True))
    assert rare.estimate_problems([each], {"a": "x", "b": "x", "c": "x", "d": "y"})["mean"] == pytest.approx(0.5)
    assert rare.estimate_problems([each], None)["mean"] == pytest.approx(0.3)


def test_a_second_stage_goes_on_where_the_first_one_ended(runs):
    curve = rare.curve_of(runs / "bank/resd-then-grpo-0")
    assert curve["tokens"] == [0, 10, 20, 120, 220] and curve["generated_tokens"] == 220
    assert [e["test"]["a"] for e in curve["each"]] == [0.0, 0.1, 0.2, 0.5, 1.0]


def test_equal_tokens_are_those_of_the_thriftier_run(runs):
    record = rare.collect(runs)
    assert [r["arm"] for r in record["countdown"]["rows"]] == ["grpo", "sdpo-8"] and len(
        record["countdown"]["contrasts"]
    ) == 1
    contrast = next(c for c in record["bank"]["contrasts"] if (c["of"], c["minus"]) == ("sdpo-8", "grpo"))
    assert contrast["tokens"] == [80, 80] and contrast["at the end"]["mean"] == 0
    assert contrast["at equal tokens"]["mean"] == pytest.approx(0.25)  # GRPO is at 0.25 after 80 of its 160 tokens
    rows = {r["arm"]: r for r in record["bank"]["rows"]}
    assert rows["grpo"]["mean"]["change"]["mean"] == 0.5 and rows["grpo"]["best"]["after"]["mean"] == 1.0
    assert rows["resd-then-grpo"]["all four right"] == [0.0, 1.0] and rows["grpo"]["none of four right"] == [1.0, 0.0]
    assert "SDPO, G = 8 (explanation) minus GRPO, G = 8 (right or wrong) | +0.000" in rare.markdown(record)


def test_hard_questions_are_those_that_no_answer_got_right_and_the_canary_stays(tmp_path, monkeypatch, capsys):
    bank = [json.loads(line) for line in (ROOT / "data/bank.jsonl").read_text().splitlines()]
    never = {r["id"] for r in bank if r["split"] in ("train", "test", "val")} & {r["id"] for r in bank[::7]}
    monkeypatch.setattr(
        hard, "ask", lambda reader, questions, points, n: {q.id: 0.0 if q.id in never else 1 / n for q in questions}
    )
    out = tmp_path / "bank.jsonl"
    monkeypatch.setattr(sys, "argv", ["hard.py", "--out", str(out), "--n", "4"])
    hard.main()
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert kept == [r for r in bank if r["split"] == "canary" or (r["split"] in ("train", "test") and r["id"] in never)]
    out.write_text("as it was")
    hard.main()
    assert out.read_text() == "as it was" and "kept as it is" in capsys.readouterr().out


def test_problems_that_seeds_share_are_drawn_once():
    """Three copies of a seed say no more than one: the interval is as wide."""
    seed = {f"p{i}": float(i % 3 == 0) for i in range(60)}
    one, three = retry.bootstrap_problems([seed]), retry.bootstrap_problems([seed] * 3)
    assert three["mean"] == one["mean"] == pytest.approx(1 / 3)
    assert three["high"] - three["low"] == pytest.approx(one["high"] - one["low"], rel=0.05)
    apart = retry.bootstrap_problems([seed, {f"q{i}": 1.0 for i in range(60)}])
    assert (
        apart["mean"] == pytest.approx(2 / 3) and apart["low"] < 0.5 and apart["high"] == 1.0
    )  # which seed is drawn matters too


def test_a_cluster_that_two_seeds_dream_of_is_one_unit():
    def ends(values: dict[str, float]) -> tuple[dict, dict]:
        first = {
            "target": dict.fromkeys(values, 0.0),
            "target_with_point": dict.fromkeys(values, 1.0),
            "neighbour": {"n": 0.5},
        }
        return {"each": first}, {"each": {"target": values, "neighbour": {"n": 0.25}}}

    bank = {"a1": "a-A", "a2": "a-A", "b1": "b-B", "c1": "c-C"}
    both = [ends({"a1": 1.0, "a2": 0.5, "c1": 0.0}), ends({"a1": 0.25, "b1": 1.0})]
    units = dreaming.units(both, "target", bank, "ABD")
    assert units.tolist() == [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]] and dreaming.gap_closed(units) == pytest.approx(0.75)
    assert dreaming.changes(both, "neighbour", bank | {"n": "n-A"}) == [{"n-A": [-0.25]}, {"n-A": [-0.25]}]


def test_a_dream_is_held_against_another_over_the_same_clusters():
    one, other = (
        {"target, rules": {"by_cluster": {"a-A": [[0, x, 1]], "b-B": [[0, y, 1]]}}} for x, y in ((1, 0), (0, 0))
    )
    assert dreaming.against(one, other)["mean"] == 0.5
    del other["target, rules"]["by_cluster"]["b-B"]
    assert dreaming.against(one, other) is None and dreaming.against(one, {"target, rules": {}}) is None
