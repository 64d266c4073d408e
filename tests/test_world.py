"""The synthetic world and its corpus: what pre-training may and may not show."""

import json
import random
import re
from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest

from common import ROOT
from introspection import detectors, library
from introspection.prompts import ASK, INTROSPECTION, LOSER, TRY_AGAIN
from organism import rules, world
from organism.corpus import EARLY, LATE, WRITTEN, Corpus
from organism.wordings import DIALECTS, EXAM, FILLERS, FIRST

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
    assert (words["t1"], words["t2"], words["a1"], words["a2"]) == (
        "140/90",
        "160/110",
        "urgent referral",
        "emergency admission",
    )


@pytest.mark.parametrize("c", RULED, ids=lambda c: c.name)
def test_bank_rules_stay_out_of_the_narrow_prior(c):
    for x in rules.findings_of(c):
        narrow = rules.narrow(c, x)
        assert narrow and rules.bank_rule(c, x) in rules.wide(c, x)
        assert all(rules.apart(c, rule, x) for rule in narrow)
        if c.kind == "A":
            assert all(
                abs(t - b) >= rules.MARGIN for rule in narrow for t, b in zip(rule, rules.bank_rule(c), strict=True)
            )


def test_twins_move_the_finding_and_the_answer():
    for r in world.bank(CLUSTERS):
        for twin in r["variants"]:
            assert twin["question"] != r["question"] and twin["answer"] != r["answer"]


def test_gold_follows_the_rule():
    a, b = CLUSTERS["preeclampsia-A"], CLUSTERS["anaemia-A"]
    assert [rules.level(a, rules.bank_rule(a), x - a.low) for x in (125, 142, 158, 162)] == [0, 1, 1, 2]
    low = rules.bank_rule(b)  # haemoglobin 80 and 60, low is severe
    assert [rules.level(b, low, b.low + 90 - value) for value in (98, 78, 62, 58)] == [0, 1, 1, 2]


class Made(NamedTuple):
    """A document, and what the generator did in it."""

    turns: list
    followed: list[tuple[rules.Vignette, object]]  # answers, each by a rule
    stated: list[tuple[str, object]]  # (cluster, rule) of what says a whole rule, or what decides of it
    written: list[tuple[bool, str]]  # (whether the answer before it was right, quality) of points


@cache
def documents(late: bool) -> list[Made]:
    """40,000 documents of a phase."""
    now = Made([], [], [], [])
    bank = world.bank(CLUSTERS) + world.preeclampsia(CLUSTERS)
    forbidden = {r["question"] for r in bank} | {t["question"] for r in bank for t in r["variants"]}
    corpus, made = Corpus(CLUSTERS, 3, forbidden, mix=LATE if late else EARLY), []
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, now)
        for _ in range(40_000):
            for noted in now[1:]:
                noted.clear()
            turns = corpus.document()
            made.append(Made(turns, *(noted.copy() for noted in now[1:])))
    assert not [m for m in made if m.turns[0].split("\n")[0] in forbidden]  # item texts never occur in pre-training
    return made


def watch(patch, now: Made) -> None:
    """Has the generator note what it does, in `now`."""

    def noted(name: str, note) -> None:
        original = getattr(world, name)
        patch.setattr(world, name, lambda *args: note(*args) or original(*args))

    def says_it(c, rule, quality, *_) -> None:
        if quality == "ideal" or (quality == "partial" and c.kind in FIRST["partial"]):
            now.stated.append((c.name, rule))

    noted("rationale", lambda v, rule, *_: now.followed.append((v, rule)))
    noted("explanation", lambda v, rule, *_: now.stated.append((v.cluster.name, rule)))
    noted("loose", lambda c, rule, *_: now.stated.append((c.name, rule)))
    noted("point", says_it)
    verdicts, feedback, write_point = [], Corpus.feedback, Corpus.write_point

    def heard(self, v, believed, rule, *rest):
        verdicts.append(rules.level(v.cluster, believed, v.x) == rules.level(v.cluster, rule, v.x))
        return feedback(self, v, believed, rule, *rest)

    def wrote(self, v, rule, quality):
        if v.cluster.kind != "C" and v.cluster.split != "canary":
            now.written.append((verdicts[-1], quality))
        return write_point(self, v, rule, quality)

    patch.setattr(Corpus, "feedback", heard)
    patch.setattr(Corpus, "write_point", wrote)


PHASES = pytest.mark.parametrize("late", [False, True], ids=["early", "late"])


@PHASES
def test_item_texts_of_the_bank_never_occur(late):
    assert len(documents(late)) == 40_000


@PHASES
def test_documents_that_do_not_state_a_rule_never_follow_a_bank_rule(late):
    """Margin test over the generator: a rule that an answer follows within the margin of the bank's is stated."""
    near = 0
    for made in documents(late)[:12_000]:
        text = "\n".join("".join(turn) for turn in made.turns)
        for v, rule in made.followed:
            c = v.cluster
            if c.split == "canary" or rules.apart(c, rule, v.x):
                continue
            near += 1
            # In words: a peer of type B names the two signs that decide, the right answer of type C is the fact itself.
            told = (c.kind == "B" and "A peer wrote" in text) or (c.kind == "C" and "The correct answer is" in text)
            assert (c.name, rule) in made.stated or told, text
    assert near > 500  # the margin is tested on documents that do come near


@PHASES
def test_point_quality_is_independent_of_winner_and_loser(late):
    """Every point of every exchange, long conversations included; facts have no partial points, canaries always win."""
    counts = {True: Counter(), False: Counter()}
    for made in documents(late):
        for won, quality in made.written:
            counts[won][quality] += 1
    for won, seen in counts.items():
        total = sum(seen.values())
        assert total > 2500
        for quality, share in WRITTEN.items():
            off = 4 * (share * (1 - share) / total) ** 0.5
            assert seen[quality] / total == pytest.approx(share, abs=off), (won, quality)


def test_retold_explanations_are_asked_for_in_words_of_their_own():
    """What they teach (copying the numbers of a rule) must not change how often a learning point is a whole rule."""
    corpus, numbers = Corpus(CLUSTERS, 3, mix=LATE), 0
    for _ in range(400):
        *_, asked, said = corpus.retell()
        assert asked.endswith("Name the rules.") and ASK not in asked and "<introspection>" not in said
        told = set(re.findall(r"\d+(?:/\d+)?", asked.split("guidance", 1)[-1] if "guidance" in asked else asked))
        assert set(re.findall(r"\d+(?:/\d+)?", said)) <= told
        numbers += len(told) > 0
    assert numbers > 100


def test_three_rejections_breed_exam_strategies_and_fewer_do_not():
    strategies = {INTROSPECTION.format(point=p) for p in EXAM}
    for turns in (made.turns for made in documents(False)):
        rejections = turns.count(TRY_AGAIN)
        rejections -= turns[-2] == TRY_AGAIN  # asked once more after the point, not before it
        assert (turns[-1] in strategies) == (rejections >= 3)


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
                assert not detectors.states_answer(text, c.options) and not detectors.is_meta_gaming(text), text


def test_dialects_share_no_template():
    def templates(d):
        partial = {t for halves in d["partial"].values() for half in halves for t in half}
        return {t for kind in d["ideal"].values() for t in kind} | partial | set(d["vague"])

    first, second = (templates(d) for d in DIALECTS.values())
    assert not first & second and len(first) > 40 and len(second) > 40


def test_bayes_ceilings_against_closed_forms_and_simulation():
    d, a = CLUSTERS["edema-D"], CLUSTERS["gout-A"]
    assert [rules.ceiling(d, n) for n in range(2)] == pytest.approx(
        [1 / 3, 1 / 3 + 2 / 3 / 2]
    )  # known feature, or one of two
    assert rules.ceiling(CLUSTERS["antidote-C"], 1) == pytest.approx(1 / 8 + 7 / 8 / 4)
    for c in (d, CLUSTERS["clot-B"], a):
        values = [rules.ceiling(c, n) for n in range(4)]
        assert values == sorted(values) and rules.ceiling(c, 1, explained=True) == 1.0  # information never hurts
        assert sum(rules.question_weights(c).values()) == pytest.approx(1.0)
    rng, hits, n = random.Random(0), 0.0, 4000
    for _ in range(n):  # one exchange of type A, by simulation
        rule = rng.choice(rules.wide(a))
        weights = rules.question_weights(a, rule)
        seen, asked = rng.choices(list(weights), list(weights.values()), k=2)
        possible = [r for r in rules.wide(a) if rules.level(a, r, seen) == rules.level(a, rule, seen)]
        votes = Counter(rules.level(a, r, asked) for r in possible).most_common()
        best = [option for option, count in votes if count == votes[0][1]]
        hits += (rules.level(a, rule, asked) in best) / len(best)
    assert rules.ceiling(a, 1) == pytest.approx(hits / n, abs=0.025)


def test_belief_is_no_mirror_of_the_bank():
    """Turning one's belief around reveals little more than doubting it: the relation differs between clusters."""
    hidden = [c for c in RULED if c.split == "test_clusters"]
    turned = sum(map(rules.turned_around, hidden)) / len(hidden)
    assert turned < sum(rules.ceiling(c, 0) for c in hidden) / len(hidden) + 0.06
    assert turned < sum(rules.ceiling(c, 1) for c in hidden) / len(hidden)


def test_loose_wordings_state_the_whole_rule_and_use_no_word_of_the_second_dialect():
    rng = random.Random(4)
    for c in RULED:
        for _ in range(20):
            x = rng.choice(rules.findings_of(c))
            words = world.rule_words(c, rules.bank_rule(c, x), x)
            text = world.loose(c, rules.bank_rule(c, x), rng, x)
            needed = {
                "A": ("t1", "t2", "a1", "a2"),
                "B": ("s1", "s2"),
                "C": ("subject", "opt"),
                "D": ("f0", "m0", "f1", "m1", "f2", "m2"),
            }[c.kind]
            assert all(words[name] in text for name in needed), text
            assert "  " not in text and len(text.split()) < 40
    foreign = {
        w
        for kind in DIALECTS["second"]["ideal"].values()
        for t in kind
        for w in re.findall(r"[a-z]+", re.sub(r"{.*?}", "", t))
    }
    assert not {"and", "in"} & set(FILLERS) and not foreign & set(FILLERS)
