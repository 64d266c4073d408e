"""The synthetic world and its corpus: what pre-training may and may not show."""

import json
import random

import pytest

from common import ROOT
from organism import rules, world
from organism.corpus import WRITTEN, Corpus, open_rules, rules_of
from organism.wordings import EXAM, VAGUE
from prompts import INTROSPECTION, LOSER, WINNER, parse_point

CLUSTERS = rules.load_clusters()
RULED = [c for c in CLUSTERS.values() if c.split != "canary"]


def test_bank_is_rebuilt_byte_for_byte():
    for name, make in (("bank", world.bank), ("preeclampsia", world.preeclampsia)):
        rebuilt = "".join(json.dumps(r) + "\n" for r in make(CLUSTERS))
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


def test_documents_that_do_not_state_a_rule_never_follow_a_bank_rule():
    """Margin test over the generator: every rule that such a document may draw keeps its distance from the bank's."""
    corpus = Corpus(CLUSTERS, 5)
    for _ in range(2000):
        v = world.vignette(corpus.rng.choice(RULED), corpus.rng)
        drawable = [*rules_of(v.cluster, "vague", v.x), *rules_of(v.cluster, "irrelevant", v.x), *open_rules(v.cluster, v.x)]
        assert drawable and all(rules.apart(v.cluster, rule, v.x) for rule in drawable)


def test_point_quality_is_independent_of_winner_and_loser():
    vague = {True: [0, 0], False: [0, 0]}
    for turns in documents(30_000):
        if len(turns) != 4 or not turns[3].startswith("<introspection>"):
            continue
        won = turns[2] == WINNER
        text = parse_point(turns[3])
        vague[won][1] += 1
        vague[won][0] += any(text == t or text.startswith(t.split("{")[0]) for t in VAGUE if t.split("{")[0])
    rates = [hits / n for hits, n in vague.values()]
    assert min(n for _, n in vague.values()) > 1000
    assert abs(rates[0] - rates[1]) < 0.05 and all(abs(rate - WRITTEN["vague"]) < 0.06 for rate in rates)


def test_three_rejections_breed_exam_strategies_and_fewer_do_not():
    for turns in documents(20_000):
        rejections = sum(t.startswith("The answer is wrong") for t in turns)
        assert (turns[-1] in [INTROSPECTION.format(point=p) for p in EXAM]) == (rejections >= 3)


def test_explanations_hold_the_deciding_detail_and_losers_are_told():
    v = world.vignette(CLUSTERS["preeclampsia-A"], random.Random(0))
    text = world.explanation(v, rules.bank_rule(v.cluster), random.Random(1))
    assert "140/90" in text and "160/110" in text and text.count(".") == 3
    assert LOSER.count("{") == 3
