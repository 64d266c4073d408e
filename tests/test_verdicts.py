"""What runs of every kind are told: good, dead, harmful, noisy and tiny ones; and how often intervals hold."""

import numpy as np
import pytest

from introspection import screen
from introspection.stats import FEW, bootstrap_clusters, bootstrap_questions, estimate, few_clusters, t_quantile
from introspection.verdicts import gap_closed, gap_words, judge, spoilt_by, words_of
from reproduce import coverage


def evaluation(told: list[float], alone: list[float], clusters: int = 4, **more) -> dict:
    """A record of eval.jsonl with one question a pair of accuracies."""
    pairs = {f"q{i}": [w, wo] for i, (w, wo) in enumerate(zip(told, alone, strict=True))}
    known = {"clusters": {q: f"c{i % clusters}" for i, q in enumerate(pairs)}, "rewarded": True, "parse_rate": 1.0}
    return {"per_question": pairs, "parse_rate/answer": 1.0} | known | more


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, n)


N = 48
START = evaluation(0.4 + noise(N, 1), 0.4 + noise(N, 2))
RUNS = {  # name: (last evaluation, words of: accuracy with points, without, advantage)
    "good": (evaluation(0.8 + noise(N, 3), 0.4 + noise(N, 4)), ["up", "no measurable change", "up"]),
    "dead": (
        evaluation(np.zeros(N), np.zeros(N), **{"parse_rate/answer": 0.04}),
        ["no good news: only 4% of the answers parse" for _ in range(3)],
    ),
    "silent": (
        evaluation(0.8 + noise(N, 3), 0.4 + noise(N, 4), parse_rate=0.1),
        ["no good news: only 10% of the points parse" for _ in range(3)],
    ),
    "harmful": (evaluation(0.2 + noise(N, 5), 0.4 + noise(N, 6)), ["down", "no measurable change", "down"]),
    "ruined": (
        evaluation(0.4 + noise(N, 7), 0.1 + noise(N, 8)),
        [
            "no measurable change",
            "down",
            "no good news: answers without a point became worse, those with one no better",
        ],
    ),
    "noisy": (evaluation(0.41 + 4 * noise(N, 9), 0.4 + 4 * noise(N, 10)), ["no measurable change" for _ in range(3)]),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_is_told_as_what_it_is(name):
    last, expected = RUNS[name]
    lines = screen.changes(START, last)
    assert [line.split(": ", 2)[2] for line in lines] == expected
    assert all("on these 4 trained clusters" in line and f"{N} questions" in line for line in lines)


def test_a_tiny_run_tells_nothing():
    start, last = evaluation([0.0] * 12, [0.0] * 12), evaluation([1.0] * 12, [0.0] * 12)
    assert all(line.endswith("too few to tell") for line in screen.changes(start, last))


def test_clusters_never_rewarded_are_what_is_drawn():
    """One of four clusters carries the change: true of these four, not of clusters like them."""
    told = [0.4 + (0.8 if i % 4 == 0 else 0.0) for i in range(N)]
    last = {rewarded: evaluation(told, [0.4] * N, rewarded=rewarded) for rewarded in (True, False)}
    flat = evaluation([0.4] * N, [0.4] * N)
    assert screen.changes(flat, last[True])[0].endswith("on these 4 trained clusters: up")
    assert screen.changes(flat, last[False])[0].endswith("over 4 clusters never rewarded: no measurable change")
    alone = evaluation(told, [0.4] * N, clusters=1, rewarded=False)
    assert "on this 1 never rewarded cluster" in screen.changes(flat, alone)[0]


def test_runs_that_were_logged_without_clusters_are_still_told():
    start, last = ({"per_question": e["per_question"]} for e in (START, RUNS["good"][0]))
    assert screen.changes(start, last)[0].endswith("on this 1 trained cluster: up")


def test_words_follow_the_interval_and_the_sample():
    assert [words_of(*bounds, 20) for bounds in ((0.01, 0.2), (-0.2, -0.01), (-0.1, 0.1), (0.0, 0.2))] == [
        "up",
        "down",
        "no measurable change",
        "no measurable change",
    ]
    assert words_of(0.5, 0.9, 19) == "too few to tell"
    assert words_of(0.5, 0.9, 19, "x") == "no good news: x"
    assert spoilt_by({"answers": 0.5, "points": None}) == ""


def test_a_dream_whose_point_hurts_closes_no_gap():
    assert gap_closed(0.4, 0.7, 0.8) == pytest.approx(0.75)
    assert gap_closed(0.4, 0.7, 0.41) is None and gap_closed(0.4, 0.2, 0.0) is None
    assert gap_words(0.4, 0.7, 0.8) == "gap closed +0.75"
    assert gap_words(0.4, 0.7, 0.41) == "no gap to close"
    assert gap_words(0.4, 0.2, 0.0) == "no good news: the point hurts in context"


# ---- intervals -----------------------------------------------------------------------------------------------------
def test_few_clusters_get_a_t_interval_over_clusters_and_seeds():
    one = {"a": [0.1, 0.3], "b": [0.5, 0.5], "c": [0.0, 0.2]}  # means 0.2, 0.5, 0.1
    error, freedom = few_clusters([one])
    assert error == pytest.approx(np.std([0.2, 0.5, 0.1], ddof=1) / 3**0.5) and freedom == 2
    made = estimate([one], "test")
    assert made["low"] == pytest.approx(0.8 / 3 - 4.303 * error) and made["lower_bound"] > made["low"]
    apart = {name: [value + 0.2 for value in values] for name, values in one.items()}
    wider, freedom = few_clusters([one, apart])  # seeds that disagree widen it
    assert wider == pytest.approx((error**2 + 0.2**2 / 2 / 2) ** 0.5) and 1 < freedom < 3
    assert few_clusters([{"a": [1.0], "b": [1.0]}]) == (0.0, 1.0)  # nothing varies: an interval of no width


def test_many_clusters_keep_the_bootstrap():
    draw = np.random.default_rng(0)
    many = [{f"c{k:02d}": draw.normal(0, 1, 5).tolist() for k in range(FEW)}]
    assert estimate(many, "test")["low"] == pytest.approx(np.quantile(bootstrap_clusters(many), 0.025))


def test_the_t_table():
    assert [t_quantile("0.975", f) for f in (1, 2, 10, 1e9)] == pytest.approx([12.706, 4.303, 2.228, 1.96])
    assert 2.228 < t_quantile("0.975", 9.5) < 2.262 and t_quantile("0.95", 11) == pytest.approx(1.796, abs=0.002)


def test_questions_are_drawn_within_their_clusters():
    """No spread between clusters reaches the interval."""
    seeds = [{"a": [0.0, 0.0], "b": [1.0, 1.0]}]
    assert set(bootstrap_questions(seeds)) == {0.5}
    verdict = judge([{"a": [0.0] * 15, "b": [1.0] * 15}], rewarded=True)
    assert (verdict.low, verdict.high) == (0.5, 0.5)


def test_the_committed_simulation_covers_and_is_what_the_command_makes():
    rows = coverage.read()
    assert {row["clusters"] for row in rows} >= {4, 6, 8, 11, 12, 20}
    assert all(row["ours"] >= 0.91 for row in rows)
    few = [row["bootstrap"] for row in rows if row["clusters"] < FEW and "seeds" not in row["world"]]
    many = [row["bootstrap"] for row in rows if row["clusters"] >= FEW and "seeds" in row["world"]]
    assert min(few) < 0.9 and min(many) < 0.8  # what the t interval replaces
    assert coverage.simulate(rows[0] | {"runs": 20}) == coverage.simulate(rows[0] | {"runs": 20})
