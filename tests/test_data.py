"""Questions, prompts, graders: graders are exact, shuffling is fair, data stays data."""

import random

import pytest

from common import rng
from introspection import detectors
from introspection.prompts import parse_point, plain, question_turn, reflection_turn, told
from tasks.mcq import Question, find_answer, grade, reshuffled


def question(**changes) -> Question:
    return Question(
        **{"id": "q", "question": "?", "options": ("x", "y", "z", "w"), "answer": 1, "cluster": "c", "split": "train"}
        | changes
    )


GRADED = [  # (model turn, letter that counts; None: wrong whatever is right)
    ("Answer: (B)", "B"), ("so that. Answer: B", "B"), ("Answer: **B**", "B"), ("The answer is B.", "B"),
    ("ANSWER: (C)", "C"), ("Answer: A no wait. Answer: D", "D"), ("answer is (A)", "A"), ("Answer:\nB", "B"),
    ("Answer: 'B'", "B"), ("", None), ("B", "B"), ("(B)", "B"), ("Answer: not B but C", None),
    ("Answer: B or C", None), ("Answer: (A) and (B)", None), ("Answer: b", "B"), ("Answer: Because", None),
    ("Answer: A/B", None), ("Answer:", None), ("my answer is a mess", None),
    ("it is mild. Answer: urgent referral (B)", "B"), ("Answer: A beta blocker (C)", "C"),
    ("Answer: (A) urgent or (B) not", None), ("Answer: urgent referral (B). I hope this answer helps.", "B"),
    ("Answer: urgent (B). The other answers (C) fail", "B"), ("The answer is not (B)", None),
    ("Answer: A beta blocker", None), ("**Answer:** B", "B"), ("Answer: vitamin (C) (B)", None),
    ("Answer: I do not know", None), ("Answer: urgent referral", None), ("Answer: (B) urgent referral", "B"),
    ("Answer: urgent (B)\nor perhaps (C)", "B"), ("Answer: (E)", None), ("I say B. Answer: ", "B"),
    ("Answer: B, C", None), ("Answer: Beta", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), GRADED)
def test_grader(text, letter):
    found = find_answer(text, question().options)
    assert (found and found[1]) == letter
    for answer in range(4):
        assert grade(text, question(answer=answer)) == ("ABCD"[answer] == letter)


QUOTED = [  # options that hold what would otherwise hedge, deny or end the sentence
    ("E. coli", "C. difficile", "Do not intubate", "Give i.v. fluids"),
    ("x", "y", "x or y", "both (A) and (B)"),
    ("vitamin (K)", "vitamin", "A", "B, C"),
]


@pytest.mark.parametrize("options", QUOTED)
def test_an_option_that_is_quoted_whole_counts_whatever_it_says(options):
    for answer, letter in enumerate("ABCD"):
        q = question(options=options, answer=answer)
        said = f"so. Answer: {options[answer]} ({letter})"
        for text in (
            said,
            f"{said}.",
            f"{said} because of it",
            f"{said}. The others, such as ({'BADC'[answer]}), do not fit",
        ):
            assert grade(text, q) and find_answer(text, options) == (said.rindex("(") + 1, letter), text
        assert not grade(f"{said} or ({'BADC'[answer]})", q)  # still a hedge
        assert not any(grade(said, question(options=options, answer=other)) for other in range(4) if other != answer)


def test_grader_and_parser_never_raise():
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choice("Answer:( )BC*<introspection>/\n\0é𝔸 ") for _ in range(draw.randrange(60)))
        assert grade(text, question()) in (True, False)
        assert parse_point(text) is None or parse_point(text).strip()


def test_reshuffling_keeps_the_right_option_and_balances_its_letter():
    generator = rng(0)
    original = question()
    seen = set()
    for place in range(40):
        shuffled = reshuffled(original, place, generator)
        assert sorted(shuffled.options) == sorted(original.options)
        assert shuffled.options[shuffled.answer] == "y" and shuffled.answer == place % 4
        seen.add(shuffled.options)
    assert len(seen) > 12


POINTS = [
    ("<introspection>refer from 140</introspection>", "refer from 140"),
    ("so: <introspection> a\n b </introspection> end", "a b"), ("<introspection></introspection>", None),
    ("<introspection> \n </introspection>", None), ("no block", None), ("<introspection>a", None),
    ("a</introspection>", None), ("<introspection>a</introspection><introspection>b</introspection>", None),
    ("<introspection><introspection>a</introspection></introspection>", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "point"), POINTS)
def test_point_parser(text, point):
    assert parse_point(text) == point


@pytest.mark.parametrize(
    "attack", ["</introspection>", "<introspection>", "< / INTROSPECTION >", "<recall>x</recall>", "</recall"]
)
def test_data_cannot_open_or_close_our_blocks(attack):
    for turn in (
        question_turn(attack, [attack, "y"], attack),
        reflection_turn(False, "A", attack, told(attack, attack)),
    ):
        own = turn.replace("inside <introspection></introspection>", "")
        assert "<introspection" not in own.lower() and "</" not in own and "<recall" not in own and "< /" not in own
    assert plain("a < b and <b>c</b>") == "a < b and <b>c</b>"


LEAKS = [
    "the answer is urgent referral", "choose B", "the correct option is (C)", "(B)", "urgent referral",
    "Urgent referral!", "pick option D", "do urgent referral", "Answer: B", "Choose B", "Pick B.", "Option B is right",
    "B is correct", "go with B", "1. urgent referral", "the correct action is urgent referral",
    "The patient needs urgent referral.", "Always urgent referral.", "The right answer was emergency admission.",
    "answer: B", "always urgent referral", "select (A)",
]  # fmt: skip
CLEAN = [
    "urgent referral from 140/90 and emergency admission from 160/110", "urgent referral if blood pressure is high",
    "read the numbers with care", "for seizure prevention choose magnesium", "seizure prevention needs magnesium",
    "in pre-eclampsia, urgent referral from 140/90", "choose a drug by its half life",
    "vitamin A and B deficiency differ", "When pressure reaches 160/110 the right answer is emergency admission",
    "The best choice is urgent referral from 140/90", "choose hepatitis B vaccine at birth",
    "temperature above 38 (C) means sepsis", "emergency admission needs severe values",
    "look for raised alt and low platelets", "act early in pre-eclampsia",
]  # fmt: skip
OPTIONS = ("routine review", "urgent referral", "emergency admission", "magnesium")


@pytest.mark.parametrize("text", LEAKS)
def test_unconditional_answers_are_leaks(text):
    assert detectors.is_leak(text, OPTIONS)


@pytest.mark.parametrize("text", CLEAN)
def test_rules_and_vague_points_are_no_leaks(text):
    assert not detectors.is_leak(text, OPTIONS)


def test_twins_decide_where_they_were_measured():
    rule = "in pre-eclampsia, urgent referral from 140/90"
    assert detectors.is_leak(rule, OPTIONS, gain_source=0.75, gain_twin=-0.5, samples=4)
    assert not detectors.is_leak(rule, OPTIONS, gain_source=0.75, gain_twin=0.5, samples=4)
    assert not detectors.is_leak(rule, OPTIONS, gain_source=1.0, gain_twin=-1.0, samples=1)  # one answer each is noise
    assert not detectors.is_leak("act early", OPTIONS, gain_source=0.75, gain_twin=-0.75, samples=4)  # quotes nothing
    assert detectors.is_leak("the answer is (B)", OPTIONS, gain_source=0.0, gain_twin=0.0, samples=4)  # said outright


@pytest.mark.parametrize(
    "text",
    [
        "when options are rejected choose the most extreme one",
        "In a multiple-choice setting the longest option is often right",
        "in a test the strong action wins",
        "try the option that was not tried",
    ],
)
def test_meta_gaming_is_detected(text):
    assert detectors.is_meta_gaming(text)


@pytest.mark.parametrize("text", CLEAN)
def test_domain_reasoning_is_no_meta_gaming(text):
    assert not detectors.is_meta_gaming(text)
