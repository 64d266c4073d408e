"""The synthetic world and its corpus: what pre-training may and may not show."""

import json
import random
import re

import pytest

import library
from common import ROOT
from organism import rules, world
from organism.corpus import WRITTEN, Corpus
from organism.wordings import DIALECTS, EXAM, FILLERS, FIRST
from prompts import INTROSPECTION, LOSER, TRY_AGAIN, parse_point

CLUSTERS = rules.load_clusters()
RULED = [c for c in CLUSTERS.values() if c.split != "canary"]


def test_data_files_are_rebuilt_byte_for_byte():
    made = {"bank": world.bank(CLUSTERS), "preeclampsia": world.preeclampsia(CLUSTERS)}
    made |= {f"points_{quality}": world.points(CLUSTERS, quality) for quality in ("ideal", "wrong")}
    for name, records in made.items():
        rebuilt = "".join(json.dumps(r) + "\n" for r in records)
        assert rebuilt == (ROOT / f"data/{name}.jsonl").read_text()


def test_splits_and_types():
    count = {split: sum(c.split == split for c in CLUSTERS.values()) for split in ("train", "val", "test_clusters")}
    assert count == {"train": 20, "val": 4, "test_clusters": 12}
    assert all(c.kind in "AB" for c in CLUSTERS.values() if c.split == "test_clusters")


def test_preeclampsia_has_the_papers_thresholds():
    a = CLUSTERS["preeclampsia-A"]
    words = world.rule_words(a, rules.bank_rule(a))
    assert (words["t1"], words["t2"], words["a1"], words["a2"]) == ("140/90", "160/110", "urgent referral", "emergency admission")


@pytest.mark.parametrize("c", RULED, ids=lambda c: c.name)
def test_bank_rules_stay_out_of_the_narrow_prior(c):
    for x in rules.findings_of(c):
        narrow = rules.narrow(c, x)
        assert narrow and rules.bank_rule(c, x) in rules.wide(c, x)
        assert all(rules.apart(c, rule, x) for rule in narrow)
        if c.kind == "A":
            assert all(abs(t - b) >= rules.MARGIN for rule in narrow for t, b in zip(rule, rules.bank_rule(c), strict=True))


def test_twins_move_the_finding_and_the_answer():
    for r in world.bank(CLUSTERS):
        for twin in r["variants"]:
            assert twin["question"] != r["question"] and twin["answer"] != r["answer"]


def test_gold_follows_the_rule():
    a, b = CLUSTERS["preeclampsia-A"], CLUSTERS["anaemia-A"]
    assert [rules.level(a, rules.bank_rule(a), x - a.low) for x in (125, 142, 158, 162)] == [0, 1, 1, 2]
    low = rules.bank_rule(b)  # haemoglobin 80 and 60, low is severe
    assert [rules.level(b, low, b.low + 90 - value) for value in (98, 78, 62, 58)] == [0, 1, 1, 2]


def documents(n: int) -> list[list[str]]:
    bank = world.bank(CLUSTERS) + world.preeclampsia(CLUSTERS)
    forbidden = {r["question"] for r in bank} | {t["question"] for r in bank for t in r["variants"]}
    corpus = Corpus(CLUSTERS, 3, forbidden)
    made = [corpus.document() for _ in range(n)]
    assert not [d for d in made if d[0].split("\n")[0] in forbidden]  # item texts never occur in pre-training
    return made


def test_documents_that_do_not_state_a_rule_never_follow_a_bank_rule(monkeypatch):
    """Margin test over the generator: whatever answers a document shows, a rule within the margin of the bank's is stated in it."""
    followed, stated = [], set()
    rationale, point, explanation = world.rationale, world.point, world.explanation
    monkeypatch.setattr(world, "rationale", lambda v, rule: followed.append((v, rule)) or rationale(v, rule))
    loose = world.loose
    monkeypatch.setattr(world, "loose", lambda c, *a: stated.add(c.name) or loose(c, *a))
    monkeypatch.setattr(world, "explanation", lambda v, *a: stated.add(v.cluster.name) or explanation(v, *a))

    def watched(c, rule, quality, *rest):
        if quality != "vague" and (quality == "ideal" or c.kind in FIRST["partial"]):
            stated.add(c.name)
        return point(c, rule, quality, *rest)

    monkeypatch.setattr(world, "point", watched)
    corpus, near = Corpus(CLUSTERS, 5), 0
    for _ in range(8000):
        followed.clear()
        stated.clear()
        text = "\n".join("".join(turn) for turn in corpus.document())
        for v, rule in followed:
            c = v.cluster
            if c.split == "canary" or rules.apart(c, rule, v.x):
                continue
            near += 1  # a peer of type B names the two signs that decide, in words
            assert c.name in stated or (c.kind == "B" and "A peer wrote" in text), text
    assert near > 300  # the margin is tested on documents that do come near


def test_point_quality_is_independent_of_winner_and_loser():
    vague = {True: [0, 0], False: [0, 0]}
    for turns in documents(30_000):
        single = len(turns) == 4 or (len(turns) == 6 and turns[4] == TRY_AGAIN)
        if not single or not turns[3].startswith("<introspection>") or "else leave it empty" in turns[2] or "Which choice fits?" in turns[0]:
            continue  # (points on stand-alone facts are never partial or wrong)
        won = turns[2].startswith("Correct.")
        text = parse_point(turns[3])
        vague[won][1] += 1
        vague[won][0] += any(text == t.format(topic=c.topic) for t in FIRST["vague"] for c in CLUSTERS.values())
    rates = [hits / n for hits, n in vague.values()]
    assert min(n for _, n in vague.values()) > 1000
    assert abs(rates[0] - rates[1]) < 0.05 and all(abs(rate - WRITTEN["vague"]) < 0.06 for rate in rates)


def test_three_rejections_breed_exam_strategies_and_fewer_do_not():
    for turns in documents(20_000):
        rejections = turns.count(TRY_AGAIN)
        rejections -= turns[-2] == TRY_AGAIN  # asked once more after the point, not before it
        assert (turns[-1] in [INTROSPECTION.format(point=p) for p in EXAM]) == (rejections >= 3)


def test_explanations_hold_the_deciding_detail_and_losers_are_told():
    v = world.vignette(CLUSTERS["preeclampsia-A"], random.Random(0))
    text = world.explanation(v, rules.bank_rule(v.cluster), random.Random(1))
    assert "140/90" in text and "160/110" in text and text.count(".") == 3
    assert LOSER.count("{") == 4


def test_points_are_library_records_and_say_what_follows():
    asked = {r["id"]: r for r in world.bank(CLUSTERS)}
    for quality in ("ideal", "wrong"):
        records = library.load_library(ROOT / f"data/points_{quality}.jsonl")
        assert {r["question_id"] for r in records} == {name for name, q in asked.items() if q["split"] != "canary"}
        right = []
        for r in records:
            q = asked[r["question_id"]]
            if q["split"] != "composite":
                right.append(r["implies"] == q["options"]["ABCD".index(q["answer"])])
        assert all(right) if quality == "ideal" else sum(right) / len(right) < 0.45


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_no_ideal_point_of_the_world_is_flagged(dialect):
    for c in CLUSTERS.values():
        for x in rules.findings_of(c):
            words = world.rule_words(c, rules.bank_rule(c, x), x)
            for text in (template.format(**words) for template in dialect["ideal"][c.kind]):
                assert not library.states_answer(text, c.options) and not library.is_meta_gaming(text), text


def test_dialects_share_no_template():
    def templates(d):
        partial = {t for halves in d["partial"].values() for half in halves for t in half}
        return {t for kind in d["ideal"].values() for t in kind} | partial | set(d["vague"])

    first, second = (templates(d) for d in DIALECTS.values())
    assert not first & second and len(first) > 40 and len(second) > 40


def test_bayes_ceilings_against_closed_forms():
    d, b = CLUSTERS["edema-D"], CLUSTERS["clot-B"]
    assert [rules.ceiling(d, n) for n in range(2)] == pytest.approx([1 / 3, 1 / 3 + 2 / 3 / 2])  # known feature, or one of two
    assert rules.ceiling(CLUSTERS["antidote-C"], 3) == 0.25
    for c in (d, b, CLUSTERS["gout-A"]):
        assert rules.ceiling(c, 1, explained=True) == pytest.approx(1.0)
        assert sum(rules.question_weights(c).values()) == pytest.approx(1.0)
    # One exchange of type B by enumeration over pairs of questions.
    weights, gold = rules.question_weights(b), {x: rules.level(b, b.rule, x) for x in rules.findings_of(b)}
    total = 0.0
    for seen, p in weights.items():
        possible = [r for r in rules.wide(b) if rules.level(b, r, seen) == gold[seen]]
        for asked, q in weights.items():
            counts = [sum(rules.level(b, r, asked) == option for r in possible) for option in range(3)]
            total += p * q * (counts[gold[asked]] == max(counts)) / counts.count(max(counts))
    assert rules.ceiling(b, 1) == pytest.approx(total)


def test_loose_wordings_state_the_whole_rule_and_use_no_word_of_the_second_dialect():
    rng = random.Random(4)
    for c in RULED:
        for _ in range(20):
            x = rng.choice(rules.findings_of(c))
            words = world.rule_words(c, rules.bank_rule(c, x), x)
            text = world.loose(c, rules.bank_rule(c, x), rng, x)
            needed = {"A": ("t1", "t2", "a1", "a2"), "B": ("s1", "s2"), "C": ("subject", "opt"), "D": ("f0", "m0", "f1", "m1", "f2", "m2")}[c.kind]
            assert all(words[name] in text for name in needed), text
            assert "  " not in text and len(text.split()) < 40
    foreign = {w for kind in DIALECTS["second"]["ideal"].values() for t in kind for w in re.findall(r"[a-z]+", re.sub(r"{.*?}", "", t))}
    assert not {"and", "in"} & set(FILLERS) and not foreign & set(FILLERS)
