"""reproduce/real.py: what is kept of a run of a real model, and what its page says."""

import json

from common import ROOT
from reproduce.real import RATES, page, record_of
from tasks.bank import load_questions

NAMES = ("same", "winners", "losers")


def run_of(folder, before: float, after: float):
    """A run of three steps on 24 questions of as many clusters, whose points gain so much."""
    folder.mkdir(parents=True)
    bank = ROOT / "data/preeclampsia.jsonl"
    (folder / "config.yaml").write_text(f"model: /home/me/model\nquestions: {bank}\nsteps: 3\n")
    first = next(q for q in load_questions(bank) if q.split == "train")
    said = [("look at the reading", 0.0), ("Look.", 0.0), (" ".join(f"A) {option}" for option in first.options), 0.5)]
    points = [{"step": k + 1, "question_id": first.id, "text": t, "advantage_same": g} for k, (t, g) in enumerate(said)]
    step = dict.fromkeys([*RATES, "accuracy/attempt", "accuracy/verify", "accuracy/fresh"], 0.5) | {"time/step": 2.0}
    steps = [step | {f"introspection_advantage/{kind}": k / 10 for kind in NAMES} for k in range(3)]
    asked = [f"q{i}" for i in range(24)]
    evaluations = [
        {"step": k, "split": "val", "accuracy_with": 0.4 + gain, "accuracy_without": 0.4, "accuracy/canary": None,
         "parse_rate": 1.0, "parse_rate/answer": 1.0, "rewarded": True, "clusters": {q: f"c{q}" for q in asked},
         "per_question": {q: [0.4 + gain, 0.4] for q in asked}}
        for k, gain in ((0, before), (3, after))
    ]  # fmt: skip
    for name, rows in (("metrics", steps), ("eval", evaluations), ("rollouts", points)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_page_says_what_changed_and_holds_no_paths(tmp_path):
    record = record_of(run_of(tmp_path / "medmcqa/grpo_introspect", 0.0, 0.2), "ours")
    assert record["settings"] == {"steps": 3} and record["seconds"] == 6.0 and record["run"] == "medmcqa"
    assert record["thirds"]["introspection_advantage/same"] == [0.0, 0.2]
    # The list of options is a leak, names the right one, and has all of the gain.
    assert record["thirds"]["points that leak, read again"] == [0.0, 1.0]
    assert record["thirds"]["points that name the right option"] == [0.0, 1.0]
    assert record["thirds"]["advantage of these"] == [None, 0.5]
    assert record["thirds"]["advantage of the others"] == [0.0, None]
    text = page([record], "a model", {"The start model": "its words"})
    assert "- advantage: +0.200 [+0.200, +0.200], 24 questions on these 24 trained clusters: up" in text
    assert "- without: +0.000 [+0.000, +0.000]" in text and "| canary | - -> - |" in text and "its words" in text


def test_answers_that_cannot_be_read_say_nothing(tmp_path):
    folder = run_of(tmp_path / "medmcqa/grpo_introspect", 0.0, 0.2)
    lines = (folder / "eval.jsonl").read_text().replace('"parse_rate/answer": 1.0', '"parse_rate/answer": 0.3')
    (folder / "eval.jsonl").write_text(lines)
    told = record_of(folder, "ours")["changes"]
    assert all("up" not in line.split(":")[-1].split() for line in told.values())
