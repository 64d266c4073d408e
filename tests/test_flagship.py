"""reproduce/flagship.py: one arm's points against another's, paired by seed and question."""

import json

import pytest

from reproduce import flagship


def log(path, gains: list[float], left_out: str = ""):
    """Two trained writers (the second gains 0.1 more) and the start model, on four questions of two clusters."""
    units = []
    for writer, more in (("start", 0.7), ("runs/a-0/final", 0.0), ("runs/a-1/final", 0.1)):
        questions = [
            {"question_id": f"q{i}", "cluster": "cd"[i % 2], "with": 0.2 + gain + more, "without": 0.2}
            for i, gain in enumerate(gains)
            if f"q{i}" != left_out
        ]
        units += [
            {"writer": writer, "split": "test_clusters", "condition": c, "reader": "start", "questions": questions}
            for c in ("points", "blind: nothing")
        ]
    path.write_text("".join(json.dumps(u) + "\n" for u in units))
    return path


def test_arms_are_compared_on_the_questions_that_both_have(tmp_path):
    row = flagship.against(
        "ssd - losers",
        [log(tmp_path / "a", [0.1, 0.2, 0.3, 0.4]), log(tmp_path / "b", [0.0, 0.1, 0.1, 0.0], left_out="q3")],
    )
    assert (row["seeds"], row["questions"], row["arm"]) == (2, 3, "ssd - losers")
    assert row["advantage"]["mean"] == pytest.approx(
        (0.15 + 0.1) / 2
    )  # clusters c (0.1, 0.2) and d (0.1); the writers' 0.1 cancels


def test_an_arm_that_was_not_run_keeps_its_rows(tmp_path):
    before = [{"arm": "losers", "split": "test_clusters"}, {"arm": "ssd - losers", "split": "test_clusters"}]
    assert flagship.collect(tmp_path, before) == before
