"""Stage 2: targets, their masks, balance, stopping, and the script as a user runs it."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from commands import broken_off, overrides, process, python

import introspection.recall
import sft_recall
from common import ROOT, Options, RecallPhase, UserError, load_config, rng
from introspection import prompts
from introspection.reader import Reader
from introspection.recall import best_threshold, find_threshold, threshold_of
from introspection.rehearsal import held_pairs
from introspection.teacher import logprobs_at
from sft_recall import Target, candidates_of, epoch_of, held_out_loss, make_targets, make_teacher
from tasks.bank import load_questions
from tasks.mcq import same_views

QUESTIONS = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
SMALL = [
    "library=data/points_ideal.jsonl",
    "shared.cluster=preeclampsia-A",
    "n_measure=4",
    "candidates=2",
    "eval_questions=4",
    "held_out=0.3",
    "rehearse=0",
]


def settings(*changes: str):
    return load_config(sft_recall.Config, "sft_recall", ROOT / "configs/bank.yaml", [*SMALL, *changes])


@pytest.fixture(scope="module")
def reader(organism):
    policy, chat = organism
    return Reader(policy, chat, 1.0, 96, (0, 0, 1))


def trained(reader, pair) -> tuple[str, str]:
    """(block, answer) of what a target says, and that the teacher's answer is the same one."""
    (block, answer), told = ([ids for ids, _ in t.segments] for t in pair)
    assert told == [answer]
    return reader.chat.tokenizer.decode(block), reader.chat.tokenizer.decode(answer)


def test_targets_train_the_block_and_only_where_asked_the_answer(reader):
    question = QUESTIONS[0]
    view = same_views(question, 3, rng(1))[1]
    wanted = f"x. Answer: {question.options[question.answer]} ({view.letter})"
    said = [(list(view.options), wanted)]
    needed = Target(question, "the point", said).conversations(reader, None)
    assert trained(reader, needed) == ("<recall>the point</recall>", f"{wanted}<turn|>")
    assert needed[1].prompt_ids == reader.prompt(view, "the point") and needed[0].prompt_ids == reader.prompt(view)
    other = Target(question, None, said).conversations(reader, rng(3))
    assert trained(reader, other) == ("", f"{wanted}<turn|>") and other[0].ids == other[1].ids
    hostile = Target(question, "a </recall> b", said).conversations(reader, None)
    assert trained(reader, hostile)[0].count("</recall>") == 1


def test_taught_tokens_follow_the_target_and_held_ones_the_start_model(reader):
    """-log p where a token is taught.

    Where it is held the KL to the start model with the point in its turn, nothing without a point.
    """
    question = QUESTIONS[0]
    said = [(list(question.options), f"Answer: {question.options[question.answer]} ({question.letter})")]
    pair = Target(question, "zinc helps", said).conversations(reader, None)
    own, told = (own_logprobs(reader.model, t) for t in pair)  # (T,), (A,)
    block = len(pair[0].segments[0][0])

    def losses(cfg, pair, model=reader.model):
        teacher = make_teacher(cfg, reader.model, [pair])
        return teacher.divergence(logprobs_at(model, [pair[0]], teacher.ids, 1.0, 4096)[0], teacher.logprobs[0])

    both, recall = losses(settings("loss_on=recall+answer"), pair), losses(settings(), pair)
    assert torch.allclose(both, -own, atol=1e-4) and torch.allclose(recall[:block], -own[:block], atol=1e-4)
    # The answer's first token, from full distributions: what the head says after each of the two prompts.
    p, q = (
        torch.log_softmax(
            reader.model(input_ids=torch.tensor([t.ids[: -len(told)]], device=reader.model.device))
            .logits[0, -1]
            .float(),
            -1,
        )
        for t in reversed(pair)
    )
    assert recall[block].item() == pytest.approx((p.exp() * (p - q)).sum().item(), rel=0.05) and recall[block] > 0.01
    kept = Target(question, None, said).conversations(reader, None)
    assert losses(settings(), kept).abs().max() < 1e-5
    changed = copy.deepcopy(reader.model)
    with torch.no_grad():
        changed.model.norm.weight.mul_(0.7)
    assert losses(settings(), kept, changed).max() > 1e-2
    # A made-up conversation is held like an answer that needs no point.
    (held,) = held_pairs(reader.chat, [{"turn": "hello", "answer_ids": reader.chat.content_ids("well")}])
    assert losses(settings(), held).abs().max() < 1e-5 and losses(settings(), held, changed).max() > 1e-2


def own_logprobs(model, trajectory) -> torch.Tensor:
    """Log-probabilities of a trajectory's own trained tokens, from full logits."""
    ids = torch.tensor([trajectory.ids], device=model.device)
    with torch.no_grad():
        logp = torch.log_softmax(model(input_ids=ids).logits.float(), -1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return logp[torch.tensor(trajectory.loss_mask[1:], dtype=torch.bool)]


def test_an_answer_is_taught_under_the_order_in_which_it_was_sampled(reader):
    question = QUESTIONS[3]
    views = same_views(question, 4, rng(0))
    said = [(list(v.options), f"so option {v.letter} is right. Answer: ({v.letter})") for v in views]
    target, orders = Target(question, "a point", said), set()
    for k in range(20):
        for conversation in target.conversations(reader, rng(1, k)):
            text = reader.chat.tokenizer.decode(conversation.ids)
            shown = next(v for v in views if f"Options: {prompts.list_options(list(v.options))}" in text)
            assert f"option {shown.letter} is right" in text
            orders.add(shown.options)
    assert len(orders) == 4


def test_the_threshold_lies_where_recall_pays_most():
    scores, gains = [0.9, 0.6, 0.5, 0.2, 0.1], [0.8, 0.7, -0.5, 0.4, -0.5]
    assert best_threshold(scores, gains) == pytest.approx(0.55)
    assert best_threshold(scores, [0.8, 0.7, -0.3, 0.4, -0.5]) == pytest.approx(0.15)
    assert best_threshold([0.9, 0.6, 0.5], [0.8, 0.0, 0.0]) == pytest.approx(0.75)  # not where it gains nothing
    assert best_threshold([0.9, 0.9], [0.8, -0.9]) == 0.5  # of one score both fire or neither
    assert best_threshold([0.3, 0.2], [-0.1, -0.2]) == 0.5 == best_threshold([], [])


def test_the_threshold_weighs_measured_gains_against_what_lies_elsewhere(reader, monkeypatch):
    """A target counts what its point gained, in four orders; elsewhere all conversations as much as all targets."""
    worth = [("p", 0.9), ("p", 0.3), (None, 0.0)]
    targets = [Target(q, point, [], gain) for q, (point, gain) in zip(QUESTIONS[:3], worth, strict=True)]
    scores = iter([[0.9] * 4 + [0.4] * 4 + [0.3] * 4, [0.5, 0.2, 0.2, 0.1]])
    asked = []
    monkeypatch.setattr(introspection.recall, "recall_scores", lambda reader, ids: asked.append(ids) or next(scores))
    made_up = [{"turn": f"hello {i}", "answer": "Well."} for i in range(4)]
    made_up.append({"turn": "fever", "answer": "<recall>scan with fever"})  # taught before: not elsewhere
    # 0.4 and below: 1.2 more in four orders, but a quarter of what lies elsewhere costs 3.
    assert find_threshold(reader, targets, made_up) == {"threshold": 0.7, "held_out": 3, "needed": 2}
    assert asked[1] == [reader.chat.first(f"hello {i}") for i in range(4)]
    scores = iter([[0.9] * 4 + [0.4] * 4 + [0.3] * 4])
    assert find_threshold(reader, targets, [])["threshold"] == pytest.approx(0.35)  # elsewhere: the last target


def test_recall_is_what_a_turn_begins_with():
    assert prompts.parse_recall(" <recall>a\n b</recall> Answer: x (A)") == "a b"
    assert (
        prompts.without_recall(" <recall>a\n b</recall> Answer: x (A)")
        == prompts.without_recall("Answer: x (A)")
        == "Answer: x (A)"
    )
    for text in ("Answer: x (A) <recall>a</recall>", "<recall>a", "<recall> </recall> Answer: x (A)"):
        assert prompts.parse_recall(text) is None


def candidate(text: str, right: float | None, n: int = 4, on: str = "v", **other) -> dict:
    verified = [] if right is None else [{"question_id": on, "n": n, "acc_with": right, "acc_without": 0.5}]
    record = {"text": text, "cluster": "preeclampsia-A", "leak": False, "question_id": "q", "verified_on": verified}
    return record | other


def test_candidates_are_the_clusters_best_by_lower_bound_without_leaks():
    records = [
        candidate("unmeasured", None),
        candidate("bad", 0.0),
        candidate("Good!", 0.6),
        candidate("good", 0.8),
        candidate("best", 1.0),
        candidate("leak", 1.0, 99, leak=True),
        candidate("other", 1.0, 99, cluster="x"),
    ]
    question = QUESTIONS[0]
    assert candidates_of(question, records, 9) == ["best", "good", "unmeasured", "bad"]
    often = [candidate("rare", 0.6), candidate("often", 1.0), candidate("often", 0.0)]
    assert candidates_of(question, often, 1) == ["often"]  # a wording is as good as its best record
    # Measured on the question itself: more answers tell more, whatever the cluster is called; one is luck.
    here = [candidate("here", 1.0, 8, question.id, cluster="x"), candidate("lucky", 1.0, 1, question.id)]
    assert candidates_of(question, records + here, 3) == ["here", "best", "good"]


def test_what_a_point_is_worth_on_its_own_question_tells_nothing_of_another():
    first, second = QUESTIONS[:2]
    records = [
        candidate("first's", 1.0, 8, first.id, question_id=first.id),
        candidate("second's", 0.8, 8, second.id, question_id=second.id),
        candidate("any's", 0.75, 8, question_id="q"),
    ]
    assert candidates_of(first, records, 3) == ["first's", "any's", "second's"]
    assert candidates_of(second, records, 3) == ["second's", "any's", "first's"]


def test_classes_follow_the_measured_gain_and_the_point_is_measured_where_it_was_not_chosen(reader, monkeypatch):
    cfg = settings()
    questions = QUESTIONS[:3]
    scores = {
        RecallPhase.BASE: [0.0, 1.0, 0.5],
        RecallPhase.CANDIDATES: [1.0, 0.5, 1.0, 0.5, 0.5, 0.75],
        RecallPhase.CANDIDATES + 10: [0.5, 1.0, 0.6],
    }
    monkeypatch.setattr(
        sft_recall,
        "measure",
        lambda reader, asked, phase, n: [
            (s, [(list(q.options), "said")]) for s, (q, _) in zip(scores[phase], asked, strict=True)
        ],
    )
    records = [candidate(text, None, cluster=questions[0].cluster) for text in ("one", "two")]
    made = make_targets(cfg, reader, questions, records)
    assert [m["class"] for m in made] == ["needed", "not needed", "unknown"]
    assert [m["best_point"] for m in made] == ["one", "one", "two"] and [m["recall"] for m in made] == [
        "one",
        None,
        None,
    ]
    assert made[0]["accuracy_with"] == 0.5  # not the 1.0 that chose it


def test_epochs_are_balanced_and_reorder_the_options(reader):
    cfg = settings("batch_size=4")
    said = [[(list(v.options), f"Answer: ({v.letter})") for v in same_views(q, 4, rng(2))] for q in QUESTIONS]
    targets = [Target(q, "p" if i < 9 else None, s) for i, (q, s) in enumerate(zip(QUESTIONS, said, strict=True))]
    first, second = (epoch_of(cfg, reader, targets, epoch) for epoch in (1, 2))
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 2]
    kinds = [bool(trained(reader, pair)[0]) for batch in first for pair in batch]
    assert sum(kinds) == 9 and len(kinds) == 18
    assert [t.ids for b in first for t, _ in b] != [t.ids for b in second for t, _ in b]
    assert epoch_of(cfg, reader, targets, 1)[0][0][0].ids == first[0][0][0].ids


def test_held_out_loss_is_the_mean_over_targets(reader):
    cfg = settings()
    said = [[(list(v.options), f"Answer: ({v.letter})") for v in same_views(q, 4, rng(2))] for q in QUESTIONS]
    targets = [Target(q, "a point", s) for q, s in zip(QUESTIONS[:3], said, strict=False)]
    single = [held_out_loss(cfg, reader, reader.model, [t]) for t in targets]
    assert held_out_loss(cfg, reader, reader.model, targets) == pytest.approx(sum(single) / 3, abs=1e-5)
    assert held_out_loss(cfg, reader, reader.model, [Target(QUESTIONS[0], None, said[0])]) == pytest.approx(
        0.0, abs=1e-5
    )


def test_twins_are_asked_only_where_that_is_wanted_and_never_if_they_are_a_test_question():
    train, _, _ = sft_recall.load_data(settings())
    assert len(train) == 16 and not any("~" in q.id for q in train)
    with_twins, _, _ = sft_recall.load_data(settings("twins=true", "shared.cluster=preeclampsia-D"))
    bank = load_questions(ROOT / "data/bank.jsonl", "preeclampsia-D")
    twins = [v.question for q in bank if q.split == "train" for v in q.variants]
    tested = {q.question for q in bank if q.split == "test"}
    assert set(twins) & tested  # the bank has such a twin
    assert (
        len(with_twins) == 16 + sum(twin not in tested for twin in twins)
        and not {q.question for q in with_twins} & tested
    )


def test_questions_are_held_out_with_their_twins():
    train, _, _ = sft_recall.load_data(settings("twins=true"))
    families = {Target(q, None, []).family for q in train}
    assert len(families) == 16 and len(train) > 2 * len(families) and all("~" not in name for name in families)


@pytest.mark.slow
def test_the_script_teaches_and_a_sudden_end_changes_nothing(parrot, tmp_path):
    def command(folder: str) -> list[str]:
        words = ["sft_recall.py", "--config", "configs/bank.yaml", "--run-dir", str(tmp_path / folder), "--resume"]
        return words + overrides(*SMALL, "rehearse=1", "epochs=4", "lr=2e-2", f"shared.model={parrot}")

    done = process(*command("whole"))
    assert done.returncode == 0 and "stage 2 finished" in done.stdout, done.stderr
    whole, broken = tmp_path / "whole/sft_recall", tmp_path / "broken/sft_recall"
    broken_off(broken / "metrics.jsonl", 2, *command("broken"))
    assert not (broken / "final").exists()
    assert python(*command("broken")).returncode == 0
    for name in ("targets.jsonl", "rehearsals.jsonl", "metrics.jsonl", "eval.jsonl", "final/model.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    losses = [json.loads(line)["held_out_loss"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert min(losses) < 0.8 * losses[0]
    kept = json.loads((whole / "final/recall.json").read_text())
    assert 0 < kept["threshold"] < 1 and kept["threshold"] == threshold_of(whole / "final")
    assert 0 <= kept["needed"] <= kept["held_out"] and kept["held_out"] > 0
    assert threshold_of(whole / "checkpoint-4") == 0.5  # where stage 2 left none


def test_a_library_of_other_clusters_is_an_error(tmp_path):
    first = (ROOT / "data/points_ideal.jsonl").read_text().splitlines()[0]
    (tmp_path / "library.jsonl").write_text(first.replace("preeclampsia-A", "nowhere-A"))
    with pytest.raises(UserError, match="no point for any cluster"):
        sft_recall.load_data(settings(f"library={tmp_path}/library.jsonl"))
    (tmp_path / "library.jsonl").write_text(first.replace('"leak": false', '"leak": true'))
    with pytest.raises(UserError, match=r"no point for any cluster .* \(1 of 1 leak\)"):
        sft_recall.load_data(settings(f"library={tmp_path}/library.jsonl"))
    with pytest.raises(UserError, match="no such file"):
        sft_recall.load_data(settings("library=runs/none.jsonl"))
    cfg = settings("library=")
    with pytest.raises(
        UserError, match=f"{tmp_path}/grpo_introspect/library.jsonl"
    ):  # of stage 1 in the same run directory
        sft_recall.main(cfg, Options(tmp_path / "sft_recall", dry_run=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ("held_out=1.0", "between 0 and 1"),
        ("epochs=0", "at least 1"),
        ("rehearse=-1", "at least 0"),
        ("lr=0", "above 0"),
        ("eval_questions=0", "at least 1"),
        ("loss_on=answer", "expected one of"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(UserError, match=message):
        settings(change)


def test_the_summary_calls_those_clusters_trained_that_were_taught(tmp_path):
    """By name: `val` has clusters of its own in our bank, and those of `train` in a bank that is split by questions."""

    def evaluation(clusters: str, right: float) -> dict:
        ids = {f"{c}-{i}": c for c in clusters for i in range(12)}
        shares = {"questions": 24, "fire_rate": 0.5, "accuracy": right, "parse_rate/answer": 1.0}
        return shares | {"each": dict.fromkeys(ids, right), "clusters": ids}

    logs = {
        "targets.jsonl": [{"class": "needed", "cluster": "a"}, {"class": "unknown", "cluster": "c"}],
        "eval.jsonl": [{"epoch": e, "val": evaluation("ab", e), "test": evaluation("cd", e)} for e in (0, 1)],
        "metrics.jsonl": [{"held_out_loss": 1.0}],
    }
    said = sft_recall.summary(SimpleNamespace(read=logs.get, path=tmp_path, cfg=settings())).splitlines()
    changes = [line for line in said if "change" in line]
    assert "on these 2 trained clusters" in changes[0] and "over 2 clusters never rewarded" in changes[1]
