"""The options of stage 1, each exercised so that it fails without its code."""

import json

import pytest
import torch
from conftest import config, give_advantages, one_step

from common import ROOT, UserError
from grpo_introspect import load_data, point_record, training_batch
from introspection import prompts
from introspection.rollouts import answer_logprobs
from introspection.sampling import Trajectory
from tasks.bank import load_exchanges, load_questions


def test_losers_see_a_winner_of_their_own_group(parroting):
    groups, _, reader = one_step(parroting, config(reveal="peer", group_size=16, questions_per_step=6))
    seen = 0
    for group in groups:
        winners = {reader.chat.text(a.completion.ids) for a in group.attempts_G if a.won}
        for point in group.points:
            turn = reader.chat.text(point.turn_ids)
            assert ("A peer wrote:" in turn) == (bool(winners) and not point.won)
            if "A peer wrote:" in turn:
                seen += 1
                assert any(f"A peer wrote: {winner}" in turn for winner in winners)
    assert seen > 5


def test_an_empty_block_is_legal_only_where_points_are_optional():
    assert prompts.parse_point("<introspection></introspection>") is None
    assert prompts.parse_point("<introspection> </introspection>", optional=True) == ""
    assert prompts.parse_point("no block", optional=True) is None


def test_not_writing_is_worth_no_point_and_costs_nothing(organism):
    cfg = config(introspect="optional", token_price=0.01, group_size=8)
    groups, _, reader = one_step(organism, cfg)
    group = groups[0]
    assert "else leave it empty" in reader.chat.text(group.points[0].turn_ids)
    silent = group.points[0]
    silent.text, silent.accuracies_V, silent.rewards_V = (
        "",
        group.fresh_accuracies_V.clone(),
        group.fresh_rewards_V.clone(),
    )
    scores = give_advantages(cfg, group)
    assert scores[0].item() == pytest.approx(group.fresh_rewards_V.mean().item())
    for point, score in zip(group.points[1:], scores[1:], strict=True):
        if point.valid and point.text:
            assert score.item() == pytest.approx(point.rewards_V.mean().item() - 0.01 * len(point.completion.ids))


def test_empty_points_are_measured_as_no_point(organism, monkeypatch):
    monkeypatch.setattr(prompts, "parse_point", lambda text, optional=False: "" if optional else text)
    groups, _, _ = one_step(organism, config(introspect="optional"))
    for group in groups:
        for point in group.points:
            assert torch.equal(point.accuracies_V, group.fresh_accuracies_V) and not point.verifications


def test_wrong_answers_are_sent_back(parroting):
    """User turns between attempts say 'try again', winners are left alone, and only sampled turns can be trained."""
    cfg = config(
        correction_turns=2, group_size=16, questions_per_step=8, mask="conversation", train_loser_attempt="true"
    )
    groups, _, reader = one_step(parroting, cfg)
    lengths = set()
    for point in (p for g in groups for p in g.points):
        before = point.attempt.before
        lengths.add(len(before))
        assert [sampled for _, sampled in before] == [True, False] * (len(before) // 2)
        assert all(prompts.TRY_AGAIN in reader.chat.text(ids) for ids, sampled in before if not sampled)
        if not point.won:
            assert len(before) == 4
        asked = point.exchange_ids
        assert point.trajectory(True, True).ids == asked + point.completion.ids
        assert sum(point.trajectory(True, False).loss_mask) == len(point.attempt.completion.ids) + len(
            point.completion.ids
        )
    assert lengths >= {0, 4}
    trajectories, _ = training_batch(cfg, groups)
    for point, trajectory in zip((p for g in groups for p in g.points), trajectories, strict=True):
        sampled = sum(len(ids) for ids, s in point.attempt.segments if s) + len(point.completion.ids)
        assert sum(trajectory.loss_mask) == sampled


def test_transfer_questions_may_come_from_the_whole_bank(parroting):
    for pool, alike in (("cluster", {True}), ("bank", {True, False})):
        groups, _, _ = one_step(parroting, config(transfer_pool=pool, n_verify=8))
        assert {v.cluster == g.question.cluster for g in groups for v in g.views_V} == alike


def test_log_ratio_is_against_no_point(organism):
    groups, _, _ = one_step(organism, config(reward="log_ratio", group_size=8))
    for group in groups:
        assert torch.equal(group.fresh_rewards_V, torch.zeros(len(group.views_V)))
    cfg = config(reward="prob", group_size=8, n_fresh=1)
    other, _, _ = one_step(organism, cfg)  # the same noise, so the same points and answers
    groups, _, _ = one_step(organism, config(reward="log_ratio", group_size=8, n_fresh=1))
    for group, plain in zip(groups, other, strict=True):
        for point, same in zip(group.points, plain.points, strict=True):
            assert point.text == same.text
            ratio = same.rewards_V.clamp(min=0.01).log() - plain.fresh_rewards_V.clamp(min=0.01).log()
            assert torch.allclose(point.rewards_V, ratio, atol=1e-3, equal_nan=True)
    for changes in ({"reward": "log_ratio", "clip": "lcb"}, {"reward": "invariance", "introspect": "optional"}):
        with pytest.raises(UserError):
            config(**changes)


def test_invariance_is_the_answers_log_probability_after_the_exchange_against_after_the_point(organism):
    groups, _, reader = one_step(organism, config(reward="invariance", group_size=4))
    empty = reader.chat.content_ids("<introspection></introspection>") + [reader.chat.end]
    for group in groups:
        for point in group.points:
            for verification in point.verifications:
                view, answer = group.views_V[verification.view], verification.completion.ids
                told = point.exchange_ids + empty + reader.chat.next(empty, view.turn)
                after_exchange, after_point = answer_logprobs(
                    reader, [Trajectory(told, [(answer, True)]), verification.trajectory]
                )
                assert point.rewards_V[verification.view].item() == pytest.approx(
                    after_exchange - after_point, abs=1e-3
                )
    with pytest.raises(UserError, match="invariance"):
        config(reward="invariance", baseline="fresh")


def exchange(question, **changes) -> dict:
    asked = question.turn
    turns = [("user", asked), ("assistant", "Answer: x (A)"), ("user", "No."), ("assistant", "Answer: y (B)")]
    record = {
        "id": "e1",
        "question_id": question.id,
        "turns": [{"role": r, "content": c} for r, c in turns],
        "final_answer": "B",
    }
    return record | changes


def test_collected_conversations_take_the_place_of_rollout_1(organism, tmp_path):
    cfg = config(questions_per_step=1, reveal="answer")
    train, _, _ = load_data(cfg)
    path = tmp_path / "exchanges.jsonl"
    gold = "C" if train[0].letter != "C" else "D"  # the conversation showed the options in another order
    path.write_text(json.dumps(exchange(train[0], gold=gold)) + "\n")
    (collected,) = load_exchanges(path, train)
    assert collected.question.letter == gold and not collected.won
    groups, _, reader = one_step(organism, cfg, exchanges=[collected])
    for point in groups[0].points:
        text = reader.chat.text(point.exchange_ids)
        assert (
            text.index("Answer: x (A)")
            < text.index("No.")
            < text.index("Answer: y (B)")
            < text.index(f"({gold}). What were you missing?")
        )
        assert not any(point.trajectory(False, False).loss_mask[: len(point.exchange_ids)])
        assert point_record(cfg, 1, groups[0], point, 0)["exchange_id"] == "e1"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"turns": []}, "alternate"),
        ({"turns": [{"role": "user", "content": "a"}]}, "alternate"),
        ({"question_id": "no"}, "no train question"),
        ({"gold": "Z"}, "letters"),
        ({"turns": "x"}, "turns"),
        ({"turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}, "a turn is empty"),
        ({"final_anser": "A", "final_answer": ...}, "did you mean 'final_answer'"),
        ({"final_answer": ...}, "no 'final_answer'"),
    ],
)
def test_a_broken_exchange_is_one_line(tmp_path, changes, message):
    train = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    path = tmp_path / "exchanges.jsonl"
    record = {key: value for key, value in exchange(train[0], **changes).items() if value is not ...}
    path.write_text("\n" + json.dumps(record) + "\n")
    with pytest.raises(UserError, match=message) as error:
        load_exchanges(path, train)
    assert f"{path}:2" in str(error.value) and "\n" not in str(error.value)


def test_an_exchange_that_stands_there_twice_is_one_line(tmp_path):
    train = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    path = tmp_path / "exchanges.jsonl"
    path.write_text(json.dumps(exchange(train[0])) + "\n" + json.dumps(exchange(train[1])) + "\n")
    with pytest.raises(UserError, match=r"exchanges\.jsonl:2: id 'e1' stands in .*exchanges\.jsonl:1 already"):
        load_exchanges(path, train)
