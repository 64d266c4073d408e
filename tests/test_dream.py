"""Stage 3: variants, labels, rewards, stopping, and the script as a user runs it."""

import json
from collections import Counter

import pytest
from commands import broken_off, overrides, process, python, same_weights

import dream_tta
from common import ROOT, UserError, load_config
from dream_tta import answer_variants, evaluate, make_targets, reward_answers, vary
from introspection import library
from introspection.reader import Reader
from introspection.rehearsal import POOL, alike, to_hold
from introspection.rundir import Run
from tasks.bank import load_questions

BANK = load_questions(ROOT / "data/bank.jsonl")
SMALL = [
    "library=data/points_ideal.jsonl",
    "shared.cluster=kidney-A",
    "dream_questions=3",
    "variants=4",
    "vary_with=task",
    "n_label=4",
    "group_size=4",
    "variants_per_step=3",
    "eval_questions=6",
    "n_eval=2",
    "save_every=2",
    "rehearse=0",
    "eval_every=2",
]


def settings(*changes: str):
    return load_config(dream_tta.Config, "dream_tta", ROOT / "configs/bank.yaml", [*SMALL, *changes])


@pytest.fixture(scope="module")
def reader(organism):
    policy, chat = organism
    return Reader(policy, chat, 1.0, 48, (0, 0, 1))


def test_variants_are_orders_and_twins_or_the_models_own(reader):
    question = next(q for q in BANK if q.id == "kidney-A-train-0")
    (views,) = vary(settings("variants=12"), reader, [question])
    texts = {question.question} | {twin.question for twin in question.variants}
    assert {v.question for v in views} == texts and len({v.options for v in views}) > 2
    for view in views:
        source = (
            question
            if view.question == question.question
            else next(t for t in question.variants if t.question == view.question)
        )
        assert view.options[view.answer] == source.options[source.answer]
    (own,) = vary(settings("vary_with=model"), reader, [question])
    assert len(own) == 4 and all(v.question and sorted(v.options) == sorted(question.options) for v in own)


def test_labels_are_the_majority_with_the_point(reader, monkeypatch):
    asked = []

    def counted(reader, views, points, phase, n):
        asked.append((views, points))
        return [Counter({"B": 3, "A": 1}) if i % 2 else Counter() for i in range(len(views))]

    monkeypatch.setattr(dream_tta, "votes", counted)
    questions = [q for q in BANK if q.cluster == "kidney-A" and q.split == "train"][:2]
    made = make_targets(settings(), reader, questions, ["one", "two"])
    assert asked[0][1] == ["one"] * 4 + ["two"] * 4
    assert len(made) == 4 and all(m["label"] == "B" and m["agreement"] == 0.75 for m in made)  # no answer, no target
    assert {m["point"] for m in made} == {"one", "two"} and all(m["gold"] in "ABCD" for m in made)


def test_a_questions_own_answer_is_dreamt_as_its_exchange_revealed_it(reader, monkeypatch):
    monkeypatch.setattr(dream_tta, "votes", lambda reader, views, points, phase, n: [Counter({"B": n}) for _ in views])
    questions = [q for q in BANK if q.cluster == "kidney-A" and q.split == "train"][:2]
    cfg = settings("variants=4", "vary_with=model", "own_answers=2")
    made = make_targets(cfg, reader, questions, ["one", "two"])
    assert len(made) == 8 + 4  # variants, own ones
    own = [t for t in made if t["question"] in {q.question for q in questions}]
    assert [t["question_id"] for t in own] == [q.id for q in questions for _ in range(2)]
    right = {q.id: q.options[q.answer] for q in questions}
    for target in own:
        assert target["options"]["ABCD".index(target["label"])] == right[target["question_id"]]
        assert target["gold"] == target["label"] and target["agreement"] == 1
    assert len({t["label"] for t in own}) > 1 and all(t["gold"] is None for t in made if t not in own)
    none = make_targets(settings("variants=4", "vary_with=model"), reader, questions, ["one", "two"])
    assert none == [t for t in made if t not in own]  # they change nothing else


def test_rewards_follow_the_label_the_gold_or_the_log_ratio(reader):
    questions = [q for q in BANK if q.cluster == "kidney-A" and q.split == "train"][:3]
    targets = [
        {
            "question": q.question,
            "options": list(q.options),
            "point": "for kidney disease choose dialysis",
            "gold": q.letter,
            "label": "A",
        }
        for q in questions
    ]
    rewards = {}
    for reward in ("majority", "gold", "log_ratio"):
        cfg = settings(f"reward={reward}")
        trajectories, completions = answer_variants(cfg, reader, targets)
        earned = reward_answers(cfg, reader, targets, trajectories, completions)
        rewards[reward] = sum(earned)
        assert len(trajectories) == len(earned) == 12
        said = [reader.chat.text(t.segments[0][0]) for t in trajectories]
        assert not any("for kidney disease" in reader.chat.text(t.prompt_ids) for t in trajectories)
        if reward != "log_ratio":
            for k, text in enumerate(said):
                wanted = targets[k // 4]["label" if reward == "majority" else "gold"]
                assert (earned[k] > 0) <= text.strip().endswith(f"({wanted})")
    assert len(set(rewards.values())) == 3
    inside, _ = answer_variants(settings("context=with"), reader, targets)
    assert all("for kidney disease" in reader.chat.text(t.prompt_ids) for t in inside)


def test_tuning_stays_on_val():
    questions, points, groups = dream_tta.load_data(settings("dream_split=val", "shared.cluster=gout"))
    assert len(questions) == len(points) == 3 and {q.split for q in questions} == {"val"}
    assert {q.split for q in groups["target"] + groups["neighbour"]} == {"val"}
    assert not {q.id for q in questions} & {q.id for q in groups["target"]} and {
        q.cluster for q in groups["target"]
    } == {"gout-A"}


def test_the_best_point_is_judged_by_all_samples_of_its_wording(tmp_path):
    """One sample of four that went well must not beat a wording that did well on a hundred."""
    line = next(
        r
        for r in map(json.loads, (ROOT / "data/points_ideal.jsonl").read_text().splitlines())
        if r["question_id"] == "kidney-A-train-0"
    )

    def record(text: str, right: float, n: int) -> dict:
        made = line | {
            "text": text,
            "verified_on": [{"question_id": "v", "n": n, "acc_with": right, "acc_without": 0.0}],
        }
        return made | {"ci95": library.interval(made)}

    records = [
        record("lucky", 1.0, 8),
        *(record("lucky", 0.0, 8) for _ in range(9)),
        *(record("good", 0.9, 8) for _ in range(9)),
    ]
    path = tmp_path / "library.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    _, points, _ = dream_tta.load_data(settings(f"library={path}"))
    assert points == ["good"]


def test_all_points_that_are_dreamt_are_read_by_the_target(reader, tmp_path, monkeypatch):
    questions, _, groups = dream_tta.load_data(settings("dream_questions=2"))
    told, cfg = [], settings("dream_questions=2", "variants=1", "n_label=1", "n_eval=1", "vary_with=task")

    def votes(reader, views, points, phase, n):
        told.append(points)
        return [Counter("A") for _ in views]

    monkeypatch.setattr(dream_tta, "votes", votes)
    dream_tta.start_dream(cfg, Run(tmp_path, cfg, False), reader, questions, ["one point", "another"], groups)
    assert questions[0].cluster == questions[1].cluster
    assert told[1] == told[2] == [("one point", "another")[i % 2] for i in range(len(groups["target"]))]


def test_composites_get_the_points_of_both_clusters():
    cfg = settings("dream_split=composite", "shared.cluster=")
    questions, points, groups = dream_tta.load_data(cfg)
    for question, point in zip(questions, points, strict=True):
        assert question.split == "composite" and ". " in point
    assert {q.cluster for q in groups["target"]} <= {q.cluster for q in questions}
    assert not {q.id for q in groups["target"]} & {q.id for q in questions}
    assert library.point_of(questions[0].id, []) is None


def test_groups_are_disjoint_and_the_canaries_are_two():
    questions, _, groups = dream_tta.load_data(settings())
    assert {q.split for q in groups["target"]} == {"test"} and {q.cluster for q in groups["target"]} == {"kidney-A"}
    assert "kidney-A" not in {q.cluster for q in groups["neighbour"]}
    assert not {q.id for q in groups["canary"]} & {q.id for q in groups["canary_stop"]}
    assert {q.split for q in questions} == {"train"}


def test_agreement_is_measured_against_the_labels(reader):
    _, _, groups = dream_tta.load_data(settings())
    gold = evaluate(settings(), reader, groups, {q.id: q.letter for q in groups["target"]}, 0)
    assert gold["agreement"] == gold["target"]
    assert evaluate(settings(), reader, groups, {q.id: "" for q in groups["target"]}, 0)["agreement"] == 0.0


def test_made_up_conversations_hold_and_are_not_about_what_is_dreamt(reader, tmp_path):
    cfg = settings("rehearse=1", "variants=24", "n_label=1", "n_eval=1")
    questions, points, groups = dream_tta.load_data(cfg)
    run = Run(tmp_path, cfg, False)
    run.open()
    dream_tta.start_dream(cfg, run, reader, questions, points, groups)
    made_up = run.read("rehearsals.jsonl")
    assert 32 < len({r["turn"] for r in made_up}) == len(made_up) <= POOL
    asked = [r["turn"] for r in made_up if "What is next?" in r["turn"]]
    assert len(asked) > 8 and not any("creatinine" in turn.partition("Options")[0] for turn in asked)  # kidney-A
    for record, trajectory in zip(made_up, to_hold(reader.chat, made_up), strict=True):
        assert record["turn"] in reader.chat.text(trajectory.prompt_ids)
        assert reader.chat.text(trajectory.segments[0][0]) == record["answer"] and sum(trajectory.loss_mask) > 0


def test_a_turn_is_left_out_that_is_as_near_to_the_variants_as_they_are_to_each_other():
    variants = {
        "gout": ["urate 140 and gout, which drug?", "gout with urate 120, which drug?", "urate 150 in gout: a drug?"],
        "ulcer": ["black stool after aspirin?"],
    }
    turns = [
        "gout, urate 130: which drug helps?",
        "which drug for fever?",
        "write a poem",
        "why black stool after aspirin?",
    ]
    assert alike(turns, variants) == [True, False, False, True]
    assert alike([], variants) == [] and alike(turns, {}) == [False] * 4


@pytest.mark.slow
def test_the_script_dreams_stops_and_a_sudden_end_changes_nothing(parrot, tmp_path):
    def command(folder: str, *more: str) -> list[str]:
        words = ["dream_tta.py", "--config", "configs/bank.yaml", "--run-dir", str(tmp_path / folder), "--resume"]
        return words + overrides(*SMALL, f"shared.model={parrot}", "steps=4", "rehearse=2", *more)

    done = process(*command("whole"))
    assert done.returncode == 0 and "gap closed" in done.stdout, done.stderr
    whole, broken = tmp_path / "whole/dream_tta", tmp_path / "broken/dream_tta"
    assert [json.loads(line)["step"] for line in (whole / "eval.jsonl").read_text().splitlines()] == [0, 2, 4]
    broken_off(broken / "metrics.jsonl", 3, *command("broken"))
    assert not (broken / "final").exists() and python(*command("broken")).returncode == 0
    for name in ("targets.jsonl", "rehearsals.jsonl", "metrics.jsonl", "eval.jsonl", "final/model.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert not same_weights(parrot, whole / "final")  # it did dream
    loudly = command("loud", "lr=0.05", "kl_coef=0", "rehearse=0")
    stopped = python(*loudly)  # destroys the model, and the canary says so
    assert stopped.returncode == 0 and "3 steps" not in stopped.stdout
    assert "the stopping canary fell" in stopped.stdout and "back to the weights of step 0" in stopped.stdout
    loud = tmp_path / "loud/dream_tta"  # what made it fall is taken back, and the last record says so
    steps = [json.loads(line)["step"] for line in (loud / "eval.jsonl").read_text().splitlines()]
    assert steps == [0, 2, 0] and same_weights(parrot, loud / "final")
    (loud / "final").rename(tmp_path / "stopped")  # killed before it was saved
    assert python(*loudly).returncode == 0
    assert same_weights(tmp_path / "stopped", loud / "final")


@pytest.mark.parametrize(
    "changes, message",
    [
        (["group_size=1"], "spread"),
        (["reward=gold", "vary_with=model"], "nobody knows"),
        (["steps=0"], "at least 1"),
        (["eval_questions=0"], "at least 1"),
        (["temperature=0"], "no spread"),
        (["max_grad_norm=0"], "above 0"),
        (["max_tokens_per_micro_batch=0"], "at least 1"),
        (["rehearse=-1"], "at least 0"),
        (["rehearse=1", "kl_coef=0"], "nothing is held"),
        (["own_answers=-1"], "at least 0"),
        (["own_answers=1", "reward=log_ratio"], "or read"),
        (["own_answers=1", "dream_split=composite"], "none is known"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        settings(*changes)


def test_a_cluster_without_points_is_an_error():
    with pytest.raises(UserError, match="has no point for a train question"):
        dream_tta.load_data(settings("shared.cluster=nowhere"))
