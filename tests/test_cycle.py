"""The continual cycle: collected exchanges, the banks of its rounds, transfer on a hand-made matrix."""

import json

import numpy as np
import pytest
from commands import python

from common import ROOT
from introspection.prompts import question_turn
from introspection.reader import Reader
from introspection.stats import cluster_means
from reproduce.collect import collect_exchanges
from reproduce.cycle import ARMS, asked_of, has_library, rounds, transfer_by_cluster, write_banks
from tasks.bank import load_exchanges, load_questions

BANK = [json.loads(line) for line in (ROOT / "data/bank.jsonl").read_text().splitlines()]


def test_collected_exchanges_hold_the_wrong_answer_under_the_order_that_was_shown(organism, tmp_path):
    train = [q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "train"][:12]
    records = collect_exchanges(Reader(*organism, 1.0, 96, (0, 0, 8)), train, 2)
    path = tmp_path / "exchanges.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    exchanges = load_exchanges(path, train)
    assert len({e.id for e in exchanges}) == len(exchanges) > 4
    by_id = {q.id: q for q in train}
    for record, exchange in zip(records, exchanges, strict=True):
        q, (asked, said) = by_id[record["question_id"]], exchange.turns
        assert not exchange.won and exchange.question.letter == record["gold"] != record["final_answer"]
        assert f"{q.options[q.answer]} ({record['gold']})" in asked and f"({record['final_answer']})" in said
        shown = sorted(q.options, key=lambda option: asked.index(f"{option} ("))
        assert asked == question_turn(q.question, shown)


def test_bad_input_to_collect_is_one_line(tmp_path):
    out = str(tmp_path / "e.jsonl")
    asked = ["-m", "reproduce.collect", "organism/weights", "--questions", str(tmp_path / "none.jsonl"), "--out", out]
    done = python(*asked)
    assert done.returncode == 2 and done.stderr.startswith("collect: ") and done.stderr.count("\n") == 1


def test_rounds_share_out_the_clusters_and_their_types(tmp_path):
    clusters = {r["cluster"] for r in BANK if r["split"] == "train"}
    dealt = [rounds(list(clusters), seed) for seed in range(3)]
    assert dealt[0] != dealt[1] and dealt[0] == rounds(sorted(clusters), 0)
    for parts in dealt:
        assert [len(part) for part in parts] == [5] * 4 and {c for part in parts for c in part} == clusters
        assert all(2 <= sum(c.endswith("A") for c in part) <= 3 for part in parts)
    write_banks(BANK, 0, tmp_path)
    seen = set()
    for number, part in enumerate(dealt[0], start=1):
        new, kept = (load_questions(tmp_path / f"{name}-{number}.jsonl") for name in ("round", "kept"))
        assert {q.cluster for q in new if q.split == "train"} == set(part) and sum(
            q.split == "train" for q in new
        ) == 80
        seen |= set(part)
        assert {q.cluster for q in kept if q.split == "train"} == seen
        for bank in (new, kept):  # in the bank's order: reproduce/answers.py keys noise by place
            assert [q.id for q in bank if q.split in ("test", "canary")] == [
                r["id"] for r in BANK if r["split"] in ("test", "canary")
            ]


def test_transfer_of_a_hand_made_matrix():
    matrix = np.array(
        [[0.1, 0.2, 0.3], [0.8, 0.25, 0.3], [0.6, 0.9, 0.5], [0.5, 0.7, 1.0]]
    )  # (after a round, of a round)
    learned = {"a": 1, "b": 2, "c": 3}
    after = [{name: [value - 0.05, value + 0.05] for name, value in zip(learned, row, strict=True)} for row in matrix]
    backward, forward = (transfer_by_cluster(after, learned, way) for way in (True, False))
    assert cluster_means([backward]).mean() == pytest.approx(((0.5 - 0.8) + (0.7 - 0.9)) / 2)
    assert cluster_means([forward]).mean() == pytest.approx(((0.25 - 0.2) + (0.5 - 0.3)) / 2)
    assert backward["c"] == forward["a"] == [0.0, 0.0]


def test_what_recalls_is_asked_in_two_ways():
    assert asked_of("ours-kept") == ("ours-kept", "recalled") and asked_of("ours-kept-sampled") == (
        "ours-kept",
        "answers",
    )
    assert asked_of("ours-dreamt") == ("ours-dreamt", "answers") and asked_of("grpo") == ("grpo", "answers")
    assert [arm for arm in ARMS if has_library(arm)] == ["ours", "ours-kept", "ours-dreamt"]
