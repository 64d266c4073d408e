"""Answers by likelihood: the model's own scores, drawn as from valid answers alone; nothing appended is trained."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import python
from conftest import config

from common import ROOT, Options, UserError, rng
from grpo_introspect import load_data, main, training_batch
from introspection import prompts
from introspection.preflight import check_bank, deciding_point, preflight
from introspection.reader import Reader, option_probabilities
from introspection.rollouts import answer_logprobs, rollout_1, rollout_2, rollout_3
from introspection.sampling import Trajectory
from introspection.scored import answer_ids, append_answers, continuation_logprobs, rationale_ids, text_scores
from introspection.stats import bootstrap_mean
from tasks.bank import load_questions
from tasks.mcq import grade, same_views

TRAIN = [q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "train"]


@pytest.fixture
def reader(organism):
    return Reader(*organism, 1.0, 48, (0, 0, 0))


def test_scores_are_the_log_probabilities_of_one_forward_each(reader):
    chat, questions = reader.chat, TRAIN[:9]
    asked = [reader.prompt(q, "a point" if i % 2 else None) for i, q in enumerate(questions)]
    texts = [[answer_ids(chat, q, k, []) for k in range(len(q.options))] for q in questions]
    got = continuation_logprobs(reader.model, asked, texts, 0.7)
    each = [Trajectory(ids, [(end, True)]) for ids, part in zip(asked, texts, strict=True) for end in part]
    wanted = answer_logprobs(replace(reader, temperature=0.7), each)
    assert [s for row in got for s in row] == pytest.approx(wanted, abs=1e-4)
    one = continuation_logprobs(reader.model, asked[:1], [[[5], [6, 7, 8]]], 1.0)[0]  # a single token, and several
    each = [Trajectory(asked[0], [(ids, True)]) for ids in ([5], [6, 7, 8])]
    assert one == pytest.approx(answer_logprobs(reader, each), abs=1e-4)


@pytest.mark.slow
def test_a_drawn_answer_is_sampling_among_valid_answers(reader):
    """The shares of many draws are the chances, and the chances are the model's own, renormalised over the options."""
    question = TRAIN[0]
    prompt, chat = reader.prompt(question), reader.chat
    said = reader.sample([prompt], 0)[0]
    keys = [(9, k) for k in range(1000)]
    asked = [(prompt, question) for _ in keys]
    drawn = append_answers(reader.model, chat, 1.0, asked, [said for _ in keys], keys, rationale=True)
    chances = torch.tensor(drawn[0].chances)
    counts = np.bincount([question_letter(chat, c, question) for c in drawn], minlength=len(question.options))
    assert counts / len(keys) == pytest.approx(chances.numpy(), abs=0.045)  # three standard errors
    own = rationale_ids(chat, said.ids, question)
    ends = [answer_ids(chat, question, k, own) for k in range(len(question.options))]
    sums = torch.tensor(answer_logprobs(reader, [Trajectory(prompt + own, [(end, True)]) for end in ends]))
    assert torch.softmax(sums, -1).tolist() == pytest.approx(chances.tolist(), abs=1e-4)
    greedy = append_answers(reader.model, chat, 0.0, asked[:1], [said], keys[:1], rationale=True)[0]
    assert question_letter(chat, greedy, question) == int(chances.argmax())


def question_letter(chat, completion, question) -> int:
    text = chat.text(completion.ids)
    return next(k for k, letter in enumerate("ABCD") if text.endswith(f"{question.options[k]} ({letter})"))


def test_a_rationale_ends_where_the_answer_is_announced(reader):
    chat, question = reader.chat, TRAIN[0]
    end = [chat.end]
    for said, kept in (
        (f"it is mild. Answer: {question.options[0]} (A)", "it is mild."),
        (f"it is mild. So the answer is {question.options[0]} (A)", "it is mild."),
        ("it is mild and", "it is mild and"),
        (f"Answer: {question.options[0]} (A)", ""),
    ):
        assert chat.text(rationale_ids(chat, chat.content_ids(said) + end, question)) == kept


@pytest.mark.slow
@pytest.mark.parametrize("informed", [False, True])
def test_scored_and_sampled_accuracy_agree_on_the_organism(reader, informed):
    """Paired on the same views, 95 % interval of the difference within 0.03; chances stand for the draws."""
    questions = TRAIN[::2][:160]
    views = [view for i, q in enumerate(questions) for view in same_views(q, 2, rng(5, i))]
    asked = [reader.prompt(view, view.explanation if informed else None) for view in views]
    sampled = reader.answer(asked, views, 1)
    scored = replace(reader, answers="scored").answer(asked, views, 1)
    right = np.array([grade(reader.chat.text(c.ids), v) for c, v in zip(sampled, views, strict=True)], dtype=float)
    chance = np.array([c.chances[v.answer] for c, v in zip(scored, views, strict=True)])
    by_question = (chance - right).reshape(-1, 2).mean(1)
    _, low, high = bootstrap_mean(by_question)
    assert low > -0.03 and high < 0.03
    assert all(reader.chat.text(c.ids) and len(c.logprobs) == len(c.ids) - c.appended for c in scored)


def test_without_a_rationale_nothing_is_decoded_and_the_likeliest_text_is_the_answer(reader):
    direct = replace(reader, answers="scored", rationale=False)
    views = same_views(TRAIN[0], 4, rng(1)) + same_views(TRAIN[1], 4, rng(2))
    asked = [direct.prompt(v) for v in views]
    turns = direct.answer(asked, views, 1, n=2)
    assert direct.generated == 0 and [t.ids for t in turns[::2]] == [t.ids for t in turns[1::2]]
    scores = text_scores(direct.model, direct.chat, asked, views)
    for turn, view, row in zip(turns[::2], views, scores, strict=True):
        best = int(np.argmax(row))
        assert direct.chat.text(turn.ids) == f"Answer: {view.options[best]} ({'ABCD'[best]})"
        assert turn.appended == len(turn.ids) and not turn.logprobs and [s for s, t in turn.segments if t] == []
    probabilities = option_probabilities(direct, asked, turns[::2], views)
    assert probabilities == [t.chances[v.answer] for t, v in zip(turns[::2], views, strict=True)]


@pytest.mark.parametrize("rationale", [True, False])
def test_what_was_appended_is_never_trained_and_blocks_are_opened(organism, rationale):
    trained = {"mask": "conversation+verification", "train_loser_attempt": "true"}
    cfg = config(**trained, group_size=3, n_verify=2, verify_on="same")
    reader = Reader(*organism, 1.0, 48, (0, 1, 0), answers="scored", rationale=rationale)
    train, _, _ = load_data(cfg)
    groups = rollout_1(reader, train[:2], train, group_size=3, verify_on="same", n_verify=2)
    rollout_2(reader, groups, contributors="both", reveal="answer", max_point_tokens=24)
    rollout_3(reader, groups, n_fresh=1, reward="prob")
    opening = reader.chat.content_ids(prompts.OPENING)
    for group in groups:
        assert len(group.points) == 3
        for point in group.points:
            assert point.turn_ids[-len(opening) :] == opening and point.text is not None
            point.advantage = 1.0
    trajectories, _ = training_batch(cfg, groups)
    for t, point in zip(trajectories, (p for g in groups for p in g.points), strict=False):
        trained = [token for token, m in zip(t.ids, t.loss_mask, strict=True) if m]
        attempt = point.attempt.completion
        assert trained == attempt.ids[: len(attempt.ids) - attempt.appended] + point.completion.ids
        assert len(attempt.logprobs) == len(attempt.ids) - attempt.appended


OPENED = [
    ("check the dose first.", "check the dose first."),
    (" a rule</introspection> and more", "a rule"),
    ("a rule\n<introspection>another", "a rule"),
    ("```\na rule\n```", "a rule"),
    ("  \n", None),
]


@pytest.mark.parametrize(("text", "point"), OPENED)
def test_a_block_that_was_opened_ends_with_its_turn(text, point):
    assert prompts.parse_opened(text) == point
    assert prompts.parse_opened(text, optional=True) == (point or "")


# ---- before the first step -----------------------------------------------------------------------------------------
def test_preflight_shows_two_turns_and_goes_on(organism, capsys):
    reader = Reader(*organism, 1.0, 48, (0, 0, 0))
    preflight(config(), reader, TRAIN)
    out = capsys.readouterr().out
    assert out.count("<|turn>user") == 2 and "Learning point: " in out and "answers read: 32 of 32" in out


def test_preflight_alone_writes_nothing_and_one_that_stops_leaves_the_directory_free(tmp_path):
    words = ("grpo_introspect.py", "--config", "configs/preeclampsia.yaml", "--run-dir", tmp_path / "run")
    tried = python(*words, "--preflight")
    assert tried.returncode == 0 and "answers read: 32 of 32" in tried.stdout
    stopped = python(*words, "--set", "max_new_tokens=3")
    assert stopped.returncode == 2 and "raise grpo_introspect.max_new_tokens" in stopped.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_new_tokens": 3}, "raise grpo_introspect.max_new_tokens"),
        ({"answers": "nonsense"}, "use shared.prompts: plain, or shared.answers: scored"),
        ({"deaf": True}, "points are not read"),
    ],
)
def test_preflight_says_what_to_change(organism, monkeypatch, changes, told):
    reader = Reader(*organism, 1.0, changes.get("max_new_tokens", 48), (0, 0, 0))
    if "answers" in changes:
        monkeypatch.setattr("introspection.preflight.letter_in", lambda text, options: None)
    if "deaf" in changes:
        monkeypatch.setattr("introspection.preflight.deciding_point", lambda question: "look again")
        monkeypatch.setattr("introspection.preflight.grade", lambda text, question: False)
    with pytest.raises(UserError, match=f"preflight: .*{told}"):
        preflight(config(max_new_tokens=reader.max_new_tokens), reader, TRAIN)


def test_the_bundled_model_refuses_a_bank_in_other_words(organism):
    _, chat = organism
    foreign = [replace(q, question="Which glucocorticoid antagonist inhibits steroidogenesis?") for q in TRAIN[:20]]
    check_bank(config(), chat, TRAIN)
    with pytest.raises(UserError, match=r"knows only the bundled world; set shared\.model"):
        check_bank(config(), chat, foreign)
    check_bank(config(**{"shared.model": "/elsewhere/model"}), chat, foreign)


def test_what_decides_is_the_explanation_or_the_answer():
    assert deciding_point(TRAIN[0]) == TRAIN[0].explanation
    bare = replace(TRAIN[0], explanation=None)
    assert bare.options[bare.answer] in deciding_point(bare)


def test_a_bank_without_canary_lends_questions_that_the_start_model_knows(parrot, tmp_path):
    lines = [json.loads(line) for line in (ROOT / "data/preeclampsia.jsonl").read_text().splitlines()]
    path = tmp_path / "bank.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in lines[:24] if r["split"] != "canary"))
    small = {"steps": 1, "questions_per_step": 2, "group_size": 2, "n_verify": 2, "eval_questions": 2}
    logged = {"verify_on": "same", "log_verifications": "true", "preflight": "false"}
    cfg = config(**small, **logged, **{"shared.model": parrot, "shared.questions": str(path)})
    main(cfg, Options(tmp_path / "run"))
    kept = json.loads((tmp_path / "run/canary.json").read_text())
    first = json.loads((tmp_path / "run/eval.jsonl").read_text().splitlines()[0])
    asked = set(first["per_question"])
    assert not asked & set(kept) and first["verified_on"] == "same"
    assert (first["accuracy/canary"] is None) == (not kept)
    verified = [json.loads(r)["verifications"] for r in (tmp_path / "run/rollouts.jsonl").read_text().splitlines()]
    assert any(verified) and all({"options", "said"} == set(v) for part in verified for v in part)
