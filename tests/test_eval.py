"""Evaluation: the statistics, the points, and the script as a user runs it."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import overrides, process, python
from conftest import config

import eval as evaluation
from common import ROOT, Options, Shared, TablePhase, UserError, load_config
from introspection import library
from introspection.bm25 import Bm25
from introspection.models import load_policy, load_tokenizer, save
from introspection.reader import Reader
from introspection.recall import (
    begin_turns,
    first_logprobs,
    opening,
    recall_likeliest,
    recall_scores,
    with_each_left_out,
)
from introspection.sampling import Completion
from introspection.stats import bootstrap_clusters, bootstrap_pairs, cluster_means, estimate, holm, sign_flip
from introspection.tables import invariance, points, recall, transfer
from introspection.tables.units import Cast, Condition, gain
from tasks.bank import load_questions

SMALL = ["group_size=2", "n_verify=2", "n_fresh=2", "best_of=3", "eval_questions=12", "splits=test_clusters"]


def settings(*changes: str):
    return load_config(evaluation.Config, "eval", ROOT / "configs/bank.yaml", [*SMALL, *changes])


# ---- statistics ----------------------------------------------------------------------------------------------------
def test_sign_flip_is_the_exact_permutation_test():
    values = np.array([0.3, -0.1, 0.25, 0.4, 0.05])
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product([1, -1], repeat=5)
    ]
    assert sign_flip(values) == sum(s >= abs(values.sum()) - 1e-12 for s in sums) / 32
    assert sign_flip(np.ones(12)) == 2 / 2**12
    assert sign_flip(np.full(30, 0.1)) < 0.001 and sign_flip(np.array([1.0, -1.0] * 10)) == 1.0


def test_bootstrap_draws_seeds_clusters_and_questions():
    one = {"a": [1.0, 1.0], "b": [0.0, 0.0]}
    assert cluster_means([one, {"a": [0.0], "b": [0.0]}]).tolist() == [0.5, 0.0]  # clusters in order, mean over seeds
    means = bootstrap_clusters([one], resamples=4000)
    assert set(means) == {0.0, 0.5, 1.0} and np.mean(means == 0.5) == pytest.approx(0.5, abs=0.03)  # clusters are drawn
    within = bootstrap_clusters([{"a": [0.0, 1.0]}], resamples=4000)
    assert set(within) == {0.0, 0.5, 1.0}  # questions are drawn
    across = bootstrap_clusters([{"a": [0.0]}, {"a": [1.0]}], resamples=4000)
    assert set(across) == {0.0, 0.5, 1.0}  # seeds are drawn
    noise = {"a": [0.0, 1.0, 0.0, 1.0], "b": [1.0, 1.0, 0.0, 0.0]}
    spread = [bootstrap_clusters([noise] * seeds, resamples=4000).std() for seeds in (1, 5)]
    assert spread[1] == pytest.approx(spread[0], rel=0.06)  # copies of a seed are no new questions
    sizes = bootstrap_clusters([{"a": [1.0] * 100, "b": [0.0]}], resamples=4000)
    assert sizes.mean() == pytest.approx(0.5, abs=0.02)  # a cluster counts once


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    """2,000 simulated tables of 3 seeds x 12 clusters x 24 questions, effects of all of them: 93 to 97 % coverage."""
    draw, hits = np.random.default_rng(1), 0
    for _ in range(2000):
        shared = 0.1 + draw.normal(0, 0.1, (12, 1)) + draw.normal(0, 0.1, (12, 24))  # cluster, question
        seeds = [
            shared + draw.normal(0, 0.03, (12, 1)) + draw.normal(0, 0.2, (12, 24)) for _ in range(3)
        ]  # seed in cluster, noise
        low, high = np.quantile(
            bootstrap_clusters([dict(enumerate(seed)) for seed in seeds], resamples=300), [0.025, 0.975]
        )
        hits += low <= 0.1 <= high
    assert 0.93 <= hits / 2000 <= 0.97


def test_composites_are_drawn_by_their_parents():
    seeds = [{"a+b": [1.0, 1.0], "a+c": [1.0], "d+e": [0.0], "d+f": [0.0]}]
    means = bootstrap_pairs(seeds, resamples=4000)
    assert means.mean() == pytest.approx(0.5, abs=0.03) and {0.0, 1.0} < set(means)  # a and d carry two pairs each
    naive = bootstrap_clusters([{name: values[:1] for name, values in seeds[0].items()}], resamples=4000)
    assert means.std() > 1.2 * naive.std()
    row = estimate(seeds, "composite")
    assert row["p"] is None and row["low"] <= 0.5 <= row["high"]
    questions = [
        {f"composite-{i}": [0.2, 0.3, 0.4] for i in range(9)}
    ]  # table transfer: a question is a unit of its own
    assert estimate(questions, "composite") == estimate(questions, "test")


def test_questions_that_a_condition_leaves_out_are_left_out_of_the_comparison():
    def unit(writer, gains):
        questions = [{"question_id": name, "cluster": name[0], "with": g, "without": 0.0} for name, g in gains.items()]
        return {
            "writer": writer,
            "split": "test_clusters",
            "condition": "points",
            "reader": "start",
            "questions": questions,
            "generated_tokens": 1,
        }

    units = [
        unit("start", {"a0": 0.1, "a1": 0.2, "b0": 0.3}),
        unit("x", {"a1": 0.4, "b0": 0.5, "b1": 9.0}),
        unit("y", {"a0": 9.0, "a1": 0.6, "b0": 0.7, "b1": 9.0}),
    ]
    start, trained = evaluation.table(settings(), units)
    assert start["questions"] == 3 and trained["questions"] == 3  # a1, b0, b1
    assert trained["change"]["mean"] == pytest.approx(((0.4 + 0.6) / 2 - 0.2 + (0.5 + 0.7) / 2 - 0.3) / 2)


def test_holm_by_hand():
    assert (
        holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        and holm([0.9, 0.8]) == [1.0, 1.0]
        and holm([]) == []
    )


def test_table_pairs_trained_with_start_question_by_question():
    def unit(writer, reader, values):
        questions = [
            {"question_id": str(i), "cluster": "ab"[i % 2], "with": w, "without": wo}
            for i, (w, wo) in enumerate(values)
        ]
        return {
            "writer": writer,
            "split": "test_clusters",
            "condition": "points",
            "reader": reader,
            "questions": questions,
            "generated_tokens": 5,
        }

    start = unit("start", "start", [(0.5, 0.5), (0.5, 0.25), (0.5, 0.5), (0.5, 0.25)])
    trained = unit("runs/x", "start", [(1.0, 0.5), (0.75, 0.25), (1.0, 0.5), (0.75, 0.25)])
    own = unit("runs/x", "own", [(1.0, 0.25), (0.75, 0.25), (1.0, 0.25), (0.75, 0.25)])
    first, second, third = evaluation.table(settings(), [start, trained, own])
    assert first["advantage"]["mean"] == 0.125 and "change" not in first
    assert second["advantage"]["mean"] == 0.5 and second["change"]["mean"] == 0.375 and second["p"] == 0.5
    assert third["no_point_change"]["mean"] == -0.125 and "p_holm" in third and "p_holm" not in second
    assert second["each_seed"] == [0.5] and second["generated_tokens"] == 5
    text = evaluation.markdown([first, second, third])
    assert "+0.375" in text and "one-sided" in text and text.count("\n") == 5


def test_everyone_reads_everyone_and_the_handshake_is_a_difference_of_differences():
    plain, foreign = settings("blind=false", "best_of=0"), settings("blind=false", "best_of=0", "foreign=f")
    assert points.conditions(plain, "start", ["x"]) == [Condition("points", "points", "start")]
    assert [c.reader for c in points.conditions(plain, "x", ["x", "y"])] == ["start", "own"]
    assert [c.reader for c in points.conditions(foreign, "start", ["x", "y"])] == ["start", "f", "x", "y"]
    assert [c.reader for c in points.conditions(foreign, "x", ["x", "y"])] == ["start", "own", "f"]
    assert [c.reader for c in points.conditions(foreign, "f", ["x", "y"])] == ["start", "own", "x", "y"]

    def unit(writer, reader, value):
        questions = [{"question_id": "0", "cluster": "a", "with": value, "without": 0.25}]
        return {
            "writer": writer,
            "split": "test",
            "condition": "points",
            "reader": reader,
            "questions": questions,
            "generated_tokens": 1,
        }

    units = [
        unit("start", "start", 0.3),
        unit("start", "x", 0.4),
        unit("x", "start", 0.5),
        unit("x", "own", 0.9),
        unit("f", "x", 0.35),
        unit("f", "own", 0.8),
    ]
    rows = {
        (r["writer"], r["condition"], r["reader"]): r for r in evaluation.table(foreign, points.expand(foreign, units))
    }
    assert rows["trained", "handshake", "own"]["advantage"]["mean"] == pytest.approx(0.9 - 0.5 - 0.4 + 0.3)
    assert (
        rows["start", "points", "trained"]["advantage"]["mean"] == pytest.approx(0.15)
        and ("foreign", "points", "own") in rows
    )
    assert rows["trained", "points", "start"]["change"]["mean"] == pytest.approx(
        0.2
    )  # against the start writer and reader


# ---- conditions ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def readers(organism):
    policy, chat = organism
    return Reader(policy, chat, 1.0, 48, (0, 0, 1))


@pytest.fixture(scope="module")
def parrots(parroting):
    return Reader(*parroting, 1.0, 48, (0, 0, 1))


def test_blind_writers_are_told_nothing_or_something_wrong(parrots):
    cfg = settings()
    questions = evaluation.load_data(cfg)["test_clusters"]
    for reveal in ("nothing", "swapped"):
        for group in points.write_points(cfg, parrots, questions, reveal, 4, 2):
            q = group.question
            for point in group.points:
                turn = parrots.chat.text(point.turn_ids)
                assert (
                    f"{q.options[q.answer]} ({q.letter})" not in turn
                    and "Correct" not in turn
                    and "learning point" in turn
                )
                assert ("The correct answer is" in turn) == ("Wrong" in turn) == (reveal == "swapped")


def test_points_of_another_cluster_and_of_a_library(parrots):
    cfg = settings("library=data/points_ideal.jsonl")
    questions = evaluation.load_data(cfg)["test_clusters"]
    groups = points.write_points(cfg, parrots, questions, "answer", 2, 2)
    texts = {g.question.id: [p.text for p in g.points] for g in groups}
    cluster = {g.question.id: g.question.cluster for g in groups}
    points.swap_points(cfg, groups)
    for group in groups:
        sources = {name for name, written in texts.items() if written == [p.text for p in group.points]}
        assert any(cluster[name] != group.question.cluster for name in sources)
    records = [
        {"question_id": questions[0].id, "text": text, "cluster": cluster, "ci95": ci95, "leak": text == "leak"}
        for text, cluster, ci95 in (
            ("one", "a", None),
            ("better", "a", [0.1, 0.2]),
            ("worse", "a", [0.0, 0.9]),
            ("leak", "a", [0.8, 0.9]),
            ("two", "b", None),
        )
    ]
    (group,) = points.from_library(cfg, parrots, questions, records)
    assert [p.text for p in group.points] == ["better. two"] and group.question is questions[0]


def test_answers_that_are_kept_are_the_ones_that_would_be_sampled(parrots):
    keeping, views = replace(parrots, kept={}, generated=0), load_questions(ROOT / "data/bank.jsonl")[:6]
    prompts = [parrots.prompt(view) for view in views]
    numbers = [(i,) for i in range(6)]
    first = keeping.answer_kept(prompts[:4], views[:4], 9, numbers[:4])
    both = keeping.answer_kept(prompts, views, 9, numbers)
    plain = replace(parrots, generated=0).answer_kept(prompts, views, 9, numbers)
    assert [c.ids for c in both] == [c.ids for c in plain] and both[:4] == first and len(keeping.kept) == 6
    assert keeping.generated == sum(len(c.ids) for c in first + both)  # as if nothing had been kept
    other = replace(keeping, key=(9, 9)).answer_kept(prompts, views, 9, numbers)
    assert [c.ids for c in other] != [c.ids for c in both]


def test_best_of_is_measured_on_questions_where_it_was_not_chosen(parrots, monkeypatch):
    cfg = settings("eval_questions=0")
    questions = [q for q in evaluation.load_data(cfg)["test_clusters"] if q.cluster in ("sepsis-A", "lung-B")]
    groups = points.write_points(cfg, parrots, questions, "answer", 3, 2)
    lonely = points.write_points(cfg, parrots, questions[:2], "answer", 3, 2)
    calls = []

    def scored(cfg, reader, groups):
        calls.append([({v.id for v in g.views_V}, list(g.points), reader.key) for g in groups])
        for g in groups:
            for i, p in enumerate(g.points):
                p.accuracies_V = p.accuracies_V.new_full((2,), [0.1, 0.9, 0.4][i])

    monkeypatch.setattr(points, "try_points", scored)
    points.best_of(cfg, parrots, groups, questions)
    for (chosen_on, written, key), (measured_on, best, later), group in zip(*calls, groups, strict=True):
        assert not chosen_on & measured_on and group.question.id not in chosen_on | measured_on
        assert best == [written[1]] and key != later
    calls.clear()
    points.best_of(cfg, parrots, lonely, questions[:2])
    assert calls == [[], []]  # one other question cannot serve for both


@pytest.fixture(scope="module")
def perturbed(parrot, tmp_path_factory):
    """A trained writer to be: a small model with a little noise in its weights."""
    folder, policy = tmp_path_factory.mktemp("perturbed"), load_policy(parrot, Shared())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.01 * parameter.std() * torch.randn_like(parameter)
    save(policy, load_tokenizer(parrot), folder)
    return folder


RECALL = [
    "table=recall",
    "library=data/points_ideal.jsonl",
    "wrong=data/points_wrong.jsonl",
    "splits=test,composite,test_clusters",
]


def test_every_condition_gives_its_own_text():
    records = {name: library.load_library(ROOT / f"data/points_{name}.jsonl") for name in ("ideal", "wrong")}
    records["library"] = [
        r for r in records["ideal"] if not r["question_id"].startswith("composite") and r["cluster"] != "lung-B"
    ]
    questions = {q.id: q for q in load_questions(ROOT / "data/bank.jsonl")}
    plain = next(q for q in questions.values() if q.split == "test")
    double = next(q for q in questions.values() if q.split == "composite")
    unknown = next(q for q in questions.values() if q.cluster == "lung-B")
    asked, sources = [plain, double, unknown], {name: q.question for name, q in questions.items()}

    def texts(label):
        return recall.texts_of(recall.GIVEN.get(label, label), asked, records, sources)

    (one, two, none), parents = texts("best point"), [texts(f"parent {k}") for k in (1, 2)]
    assert one in {r["text"] for r in records["library"] if r["question_id"] == plain.id} and none is None
    assert two == f"{parents[0][1]}. {parents[1][1]}" and parents[0][0] is None and parents[1][2] is None
    own = {
        cluster: {r["text"] for r in records["library"] if r["cluster"] in cluster.split("+")}
        for cluster in (plain.cluster, double.cluster)
    }
    random = texts("random point")
    assert random[0] not in own[plain.cluster] and random[1] not in own[double.cluster]
    assert texts("wrong point")[0] in {r["text"] for r in records["wrong"] if r["question_id"] == plain.id}
    assert texts("ideal point")[1].count(". ") == 1 and texts("emptied") == ["", "", ""]
    assert texts("BM25")[0] in own[plain.cluster]  # its own question is the best match
    assert texts("BM25's cluster, its best point")[0] in own[plain.cluster]
    both = texts("BM25's two clusters, their best points")[1].split(". ")
    assert len(both) == 2 and all(text in own[double.cluster] for text in both)
    assert texts("one point a cluster")[0].count(". ") == len({r["cluster"] for r in records["library"]}) - 1


def test_bm25_prefers_rare_words_and_short_documents():
    documents = ["the cat sat on the mat", "the dog sat", "the dog sat on the mat and on the mat and on the mat"]
    bm25 = Bm25(documents)
    assert bm25.best("dog sat") == 1 and bm25.best("cat on the mat") == 0


def test_the_union_of_recalls_has_one_point_a_cluster_of_the_question_and_its_parts(readers, monkeypatch):
    records = [
        {"text": text, "cluster": cluster, "leak": False}
        for text, cluster in (("urgent from 150", "a"), ("scan with fever", "b"), ("rest at home", "c"))
    ]
    first, second = load_questions(ROOT / "data/bank.jsonl")[:2]
    two = replace(first, question="Pulse 1.5 times as high. Fever! What now?")
    parts = [q.question for q in with_each_left_out(two)]
    assert parts == [two.question, "Fever! What now?", "Pulse 1.5 times as high. What now?", parts[3]]
    assert parts[3] == "Pulse 1.5 times as high. Fever!"
    one = replace(second, question="What now?")
    assert with_each_left_out(one) == [one]

    said = ["<recall>urgent from 150</recall>", "<recall>a scan when fever comes</recall>", "<recall>urgent from 150"]
    said += ["<recall>Urgent from 150.</recall>", "<recall>no end"]
    asked = []

    def recalled(recaller, prompts, begun, phase, longest):
        asked.extend(prompts)
        return [recaller.chat.content_ids(text) for text in said]

    monkeypatch.setattr(recall, "recall_likeliest", recalled)
    joined = recall.unions(settings(*RECALL, "writers=x"), readers, [two, one], records)
    assert joined == ["urgent from 150. a scan when fever comes", None]
    assert asked == [readers.prompt(q) for q in (*with_each_left_out(two), one)]


def test_a_turn_begins_with_a_point_where_its_probability_reaches_the_threshold(readers):
    asked = [readers.prompt(q) for q in load_questions(ROOT / "data/bank.jsonl")[:6]]
    scores, first = recall_scores(readers, asked), opening(readers.chat)
    places = sorted(scores)
    begun = begin_turns(readers, asked, (places[2] + places[3]) / 2, [0.5] * 6)
    assert [ids == [first] for ids in begun] == [s > places[2] for s in scores]
    never = begin_turns(readers, asked, 1.1, [i / 6 for i in range(6)])
    assert all(len(ids) == 1 and ids != [first] for ids in never)
    assert begin_turns(readers, asked, 0.0, [0.5] * 6) == [[first]] * 6
    # The other token is drawn by what is left of the probabilities: the likeliest of them at most draws.
    logprobs = first_logprobs(readers, asked[:1])[0]
    logprobs[first] = -torch.inf
    drawn = [begin_turns(readers, asked[:1], 1.1, [(i + 0.5) / 50])[0][0] for i in range(50)]
    share = logprobs.exp() / logprobs.exp().sum()
    assert drawn.count(int(share.argmax())) == pytest.approx(50 * share.max().item(), abs=1.5)


def test_a_turn_that_recalls_goes_on_with_its_likeliest_point(readers, monkeypatch):
    chat, asked, real, said = readers.chat, [], Reader.sample, "<recall>urgent from 150</recall>"

    def sample(self, prompt_ids, phase, n, longest, temperature):
        asked.append((prompt_ids, temperature))
        texts = [f"{said}Answer: none (A)", "<recall>no end"]
        return [Completion(chat.content_ids(t)[1:], [], True) for t in texts]

    first = opening(chat)
    monkeypatch.setattr(Reader, "sample", sample)
    begun = recall_likeliest(readers, [[1], [2], [3]], [[first], [9], [first]], 0, 24)
    assert asked == [([[1, first], [3, first]], 0.0)]  # the turn that does not recall is not asked
    assert begun == [chat.content_ids(said), [9], [first]]
    # Nothing of it is chance.
    monkeypatch.setattr(Reader, "sample", real)
    views = [readers.prompt(q) for q in load_questions(ROOT / "data/bank.jsonl")[:2]]
    texts = [[c.ids for c in readers.sample(views, phase, temperature=0.0)] for phase in (1, 2)]
    assert texts[0] == texts[1]


def test_a_recalled_point_is_parsed_forced_or_read_by_the_start_model(readers, monkeypatch):
    cfg = settings(*RECALL, "writers=x")
    question = next(q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "test")
    asked, real = [], Reader.sample

    def sample(self, prompt_ids, phase, *more, **options):
        done = real(self, prompt_ids, phase, *more, **options)
        asked.append((phase, [self.chat.tokenizer.decode(ids) for ids in prompt_ids]))
        if phase == TablePhase.RECALLING and done:  # the first turn recalls, the second does not
            done[0].ids = self.chat.content_ids("<recall>urgent from 150</recall>Answer: none (A)") + [4]
        return done

    monkeypatch.setattr(Reader, "sample", sample)
    own, start = recall.RECALLED[:2]
    given, cast = [], Cast(readers, readers, readers, [question], {}, {})
    monkeypatch.setattr(recall, "texts_of", lambda *_: given)
    (record,) = recall.measure(cfg, start, cast)
    read = dict(asked)[TablePhase.ANSWERING]
    assert read[0].count("Learning point: urgent from 150") == 1 and "Learning point" not in read[1]
    assert record["fired"] == 0.5 and record["text"] == "urgent from 150" and 0 <= record["score"] < 0.01
    asked.clear()
    recall.measure(cfg, own, cast)
    assert TablePhase.ANSWERING not in dict(asked)  # the recaller's own turn is its answer
    given[:] = ["another point"]
    recall.measure(cfg, recall.REPLACED[1], cast)
    (swapped,) = dict(asked)[TablePhase.ANSWERING]  # only where something was recalled
    assert swapped.endswith("<recall>another point</recall>")
    assert not any("Learning point" in text for text in dict(asked)[TablePhase.UNAIDED])
    given[:] = [None]
    assert recall.measure(cfg, recall.REPLACED[1], cast) == []


def test_recall_is_judged_where_it_is_needed_and_beyond_its_parents():
    def records(values, **more):
        return [
            {"question_id": str(i), "cluster": "a", "with": w, "without": wo} | {k: v[i] for k, v in more.items()}
            for i, (w, wo) in enumerate(values)
        ]

    best = records([(1.0, 0.5), (1.0, 0.95), (0.6, 0.5), (0.9, 0.4)])
    assert recall.needs(best) == {"0": True, "1": False, "3": True}
    assert recall.auroc([0.9, 0.1, 0.5], [True, False, True]) == 1.0 and recall.auroc([0.5, 0.5], [True, False]) == 0.5
    assert recall.auroc([0.5], [True]) is None
    said = records(
        [(0.75, 0.5), (0.9, 0.95), (0.5, 0.5), (0.65, 0.4)], fired=[1.0, 0.0, 0.5, 0.5], score=[0.9, 0.1, 0.4, 0.6]
    )
    units = [
        {"writer": w, "split": "test", "condition": c, "reader": "start", "questions": q}
        for w, c, q in (("start", "best point", best), ("x", "recalled", said))
    ]
    (line,), text = recall.remark(units)
    assert (line["fires_needed"], line["fires_not_needed"], line["auroc"]) == (0.75, 0.0, 1.0)
    assert line["gap_closed"] == pytest.approx(0.45 / 1.15) and "0.75 (n 2)" in text
    parents = [
        {
            "writer": "start",
            "split": "composite",
            "condition": f"parent {k}",
            "reader": "start",
            "questions": records([(v, 0.3)]),
        }
        for k, v in ((1, 0.5), (2, 0.4))
    ]
    composed = {
        "writer": "x",
        "split": "composite",
        "condition": "recalled",
        "reader": "start",
        "questions": records([(0.9, 0.3)]),
    }
    made = recall.expand(settings(*RECALL, "writers=x"), [*parents, composed])[-1]
    assert made["condition"] == "interaction: recalled"
    assert gain(made["questions"][0]) == pytest.approx(0.9 - 0.5 - 0.4 + 0.3)


def test_the_matrix_tries_every_point_on_every_question(parrots):
    cfg = settings("table=transfer", "eval_questions=0", "n_verify=1", "n_fresh=1")
    questions = [q for q in evaluation.load_data(cfg)["test_clusters"] if q.cluster in ("sepsis-A", "lung-B")][::4]
    records = transfer.measure(
        cfg, transfer.conditions(cfg, "start", [])[0], Cast(parrots, parrots, parrots, questions, {}, {})
    )
    pairs = {(r["question_id"], r["on"]) for r in records}
    assert len(records) == len(pairs) and pairs == {
        (a, q.id) for a in {r["question_id"] for r in records} for q in questions
    }
    units = transfer.expand(cfg, [{"writer": "start", "questions": records}])
    assert [u["condition"] for u in units] == [
        "lung-B on lung-B",
        "lung-B on sepsis-A",
        "own question",
        "sepsis-A on lung-B",
        "sepsis-A on sepsis-A",
    ]
    assert sum(len(u["questions"]) for u in units) == len(records)


def test_the_label_test_finds_clusters_and_only_those():
    names = [f"{c}{i}" for c in "abc" for i in range(5)]

    def p_of(gain):
        records = [
            {"question_id": a, "on": b, "cluster": a[0], "on_cluster": b[0], "with": gain(a, b), "without": 0.0}
            for a in names
            for b in names
        ]
        return transfer.label_test(records, draws=400)

    noise = np.random.default_rng(0)
    contrast, p = p_of(lambda a, b: (a[0] == b[0]) * 0.3 + (a == b) * 5.0)
    assert contrast == pytest.approx(0.3) and p < 0.01  # a point on its own question does not count
    assert p_of(lambda a, b: noise.normal())[1] > 0.05


def measured(cfg, name, reader, questions):
    return invariance.measure(cfg, Condition(name, name, "start"), Cast(reader, reader, reader, questions, {}, {}))


def test_a_point_that_is_the_exchange_itself_is_invariant(readers, monkeypatch):
    cfg = settings("table=invariance")
    questions = evaluation.load_data(cfg)["test_clusters"][:2]
    seen, real = [], invariance.after_exchange
    monkeypatch.setattr(invariance, "after_exchange", lambda reader, point, view: reader.prompt(view, point.text))
    records = measured(cfg, "transfer", readers, questions)
    assert records and all(
        r["kl"] == pytest.approx(0.0, abs=1e-3) and r["distance"] == pytest.approx(0.0, abs=1e-5) for r in records
    )
    monkeypatch.setattr(
        invariance,
        "after_exchange",
        lambda reader, point, view: seen.append((point, view, real(reader, point, view))) or seen[-1][2],
    )
    records = measured(settings("table=invariance", "group_size=4"), "same", readers, questions)
    assert all(r["distance"] > 0.001 and abs(r["kl"]) > 0.01 for r in records) and any(
        r["distance_ceiling"] > 0 for r in records
    )
    for point, view, ids in seen:  # the exchange without its point, then the view's question
        text = readers.chat.tokenizer.decode(ids)
        *_, asked = text.split("<introspection></introspection>")  # the first one stands in the request for a point
        assert point.text not in asked and text.count("<introspection></introspection>") == 2
        assert asked.count(view.question) == 1 and text.startswith(readers.chat.tokenizer.decode(point.prompt_ids))


def test_without_two_sound_points_nothing_is_compared(readers, monkeypatch):
    cfg = settings("table=invariance")
    monkeypatch.setattr(invariance, "sound", lambda group, point: False)
    questions = evaluation.load_data(cfg)["test_clusters"][:2]
    assert [measured(cfg, name, readers, questions) for name in ("same", "again")] == [[], []]


def test_asked_again_shows_no_answer_and_counts_the_same_letter(readers, monkeypatch):
    cfg = settings("table=invariance", "group_size=4")
    questions = evaluation.load_data(cfg)["test_clusters"][:6]
    asked, real = {}, Reader.sample

    def sample(self, prompt_ids, phase, *more, **options):
        asked[phase] = [self.chat.tokenizer.decode(ids) for ids in prompt_ids]
        return real(self, prompt_ids, phase, *more, **options)

    monkeypatch.setattr(Reader, "sample", sample)
    records = measured(cfg, "again", readers, questions)
    again, inside, fresh, without = (asked[TablePhase.AGAIN + k] for k in range(4))
    assert all("try again" in text and "Learning point" not in text for text in again)
    assert all("try again" in text and "Learning point" in text for text in inside) and all(
        "try again" not in text for text in fresh + without
    )
    assert not any("correct answer" in text for text in again + inside + fresh + without)
    assert again and all(0 <= r[name] <= 1 for r in records for name in invariance.PLACES)
    rows = {u["condition"] for u in invariance.expand(cfg, [{"condition": "again", "questions": records}])}
    assert rows == set(invariance.PLACES)


def command(parrot: str, run_dir, *changes: str) -> list[str]:
    words = ["eval.py", "--config", "configs/bank.yaml", "--run-dir", str(run_dir)]
    return words + overrides(*SMALL, f"shared.model={parrot}", *changes)


@pytest.mark.parametrize(
    "table, words", [("transfer", "permuted labels"), ("invariance", "| trained | kl, same | own |")]
)
def test_the_other_tables_run(tmp_path, parrot, perturbed, table, words):
    done = python(*command(parrot, tmp_path, f"table={table}", f"writers={perturbed}", "eval_questions=8"))
    assert done.returncode == 0 and words in done.stdout, done.stderr


def test_recallers_are_measured_and_resumed(tmp_path, parrot, perturbed):
    asked = command(parrot, tmp_path, *RECALL, f"writers={perturbed}", "eval_questions=4")
    done = python(*asked, "--resume")
    assert done.returncode == 0, done.stderr
    for words in (
        "| composite | start | parent 2 | start |",
        "| composite | trained | interaction: union of recalls |",
        "| test_clusters | trained | recalled by threshold - BM25 |",
        "| test_clusters | trained | recalled | own |",
        "| AUROC |",
    ):
        assert words in done.stdout
    results = tmp_path / "eval/results.jsonl"
    lines = results.read_text().splitlines()
    results.write_text("\n".join(lines[:-3]) + "\n")
    assert python(*asked, "--resume").returncode == 0 and results.read_text().splitlines() == lines


@pytest.mark.slow
def test_the_script_resumes_and_repeats_itself(tmp_path, parrot):
    asked = command(parrot, tmp_path / "a", f"writers={parrot}", "library=data/points_ideal.jsonl")
    done = process(*asked)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "a/eval/results.jsonl"
    lines = results.read_text().splitlines()
    assert len(lines) == 12 and "| test_clusters | trained | points | own |" in done.stdout
    start, trained = (json.loads(lines[i])["questions"] for i in (0, 6))
    assert start == trained  # the same weights under the same noise
    rows = (tmp_path / "a/eval/table.json").read_text()
    results.write_text("\n".join(lines[:4]) + "\n" + lines[4][:1000])  # killed in the middle of a line
    assert python(*asked, "--resume").returncode == 0
    assert results.read_text().splitlines() == lines and (tmp_path / "a/eval/table.json").read_text() == rows


@pytest.mark.parametrize(
    "change, message",
    [
        ("splits=tests", "unknown split 'tests'"),
        ("splits=val,", "unknown split ''"),
        ("n_verify=0", "n_verify"),
        ("eval_questions=1", "at least 2"),
        ("writer=x", "did you mean 'writers'"),
        ("table=recall", "table recall needs models"),
        ("table=recal", "expected one of"),
        ("table=invariance group_size=1", "at least 2"),
        ("table=invariance temperature=0", "above 0"),
    ],
)
def test_bad_settings_are_one_line(change, message):
    with pytest.raises(UserError, match=message):
        settings(*change.split())


@pytest.mark.parametrize(
    "changes, message",
    [
        (["writers=runs/nowhere"], "is no model folder"),
        (["library=data/none.jsonl"], "no such file"),
        (["library=data"], "is a folder; expected a file"),
        (["library=data/points_ideal.jsonl", "splits=canary"], "no point for any question"),
    ],
)
def test_bad_files_are_one_line_before_any_work(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        evaluation.main(settings(*changes), Options(tmp_path / "x", dry_run=True))


def test_without_a_writer_it_is_the_one_that_stage_1_trained_here(tmp_path, capsys):
    for expected in ("writers: start\n", f"writers: start, {tmp_path}/grpo_introspect/final\n"):
        evaluation.main(settings(), Options(tmp_path / "eval", dry_run=True))
        assert expected in capsys.readouterr().out
        if "final" not in expected:
            (tmp_path / "grpo_introspect").mkdir()
            (tmp_path / "grpo_introspect/final").symlink_to(ROOT / "organism/weights")


def test_a_broken_writer_is_told_before_any_is_measured(tmp_path):
    shutil.copytree(ROOT / "organism/weights", tmp_path / "writer")
    for name in ("model.safetensors", "tokenizer.json"):
        whole = (tmp_path / "writer" / name).read_bytes()
        (tmp_path / "writer" / name).write_bytes(whole[:-99])
        with pytest.raises(UserError, match=r"^eval\.foreign: cannot load"):
            evaluation.main(settings(f"foreign={tmp_path}/writer"), Options(tmp_path / "x", dry_run=True))
        (tmp_path / "writer" / name).write_bytes(whole)
    with pytest.raises(UserError, match="is named twice"):
        evaluation.main(settings("writers=organism/weights,organism/weights"), Options(tmp_path / "x", dry_run=True))


def test_one_cluster_has_no_other():
    with pytest.raises(UserError, match="has one cluster"):
        evaluation.load_data(settings("shared.cluster=sepsis", "eval_questions=0"))


def test_a_split_without_questions_is_an_error():
    assert load_questions(ROOT / config().questions)
    with pytest.raises(UserError, match="no 'val' question with another one"):
        evaluation.load_data(settings("shared.questions=data/preeclampsia.jsonl", "splits=val"))
