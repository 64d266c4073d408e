"""What is read out of free text: answers, leaks, exam strategy; on sets of our own wording."""

import battery
import detectors
import pytest

from common import ROOT
from introspection.reader import cut_before_letter
from tasks.answers import NEAR, find_answer
from tasks.bank import load_questions

FORMS = battery.read(ROOT / "tests/forms.jsonl")


def test_every_form_of_the_committed_set_is_read_as_a_careful_reader_does():
    assert len(FORMS) >= 150
    assert [row["text"] for row, letter in FORMS if letter != row["says"]] == []
    assert {row["says"] for row, _ in FORMS} >= {"A", "B", "C", "D", None}


GERMS = ("E. coli", "C. difficile", "Staphylococcus", "Candida")
READ = [  # (options, turn, letter and what stands at its place; None: no answer)
    (GERMS, "Answer: E. coli", ("A", None)),
    (GERMS, "Answer: C. difficile (B)", ("B", "B")),
    (GERMS, "Answer: C. difficile (C)", None),  # text and letter disagree
    (GERMS, "The answer is D. Candida, not C. difficile.", ("D", "D")),
    (GERMS, "Answer: E", None),  # not shown
    (GERMS, "Answer: C. perfringens", None),  # a word that a letter begins
    (("Vitamin K", "Vitamin A", "Iron", "Zinc"), "Answer: Vitamin K", ("A", None)),
    (("Vitamin K", "Vitamin A", "Iron", "Zinc"), "The answer is vitamin A deficiency (B)", ("B", "B")),
    (("Vitamin K", "Vitamin A", "Iron", "Zinc"), "The answer is vitamin A deficiency (C)", None),
    (("A", "B", "AB", "0"), "Answer: A (B)", None),  # the blood group or the letter?
    (("B", "A", "AB", "0"), "Answer: A (B)", ("B", "B")),
    (("fever", "fever or rash", "rash", "none"), "Answer: fever or rash (B)", ("B", "B")),
    (("fever", "fever or rash", "rash", "none"), "Answer: fever or (C)", None),
    (("The buyer", "The seller", "Both", "Neither"), "The answer is seller.", ("B", None)),
    (("x", "y"), "Answer: \uff22", ("B", "\uff22")),
    (("x", "y"), "Answer: (b)", ("B", "b")),
    (("x", "y"), "Answer: B. So that is it. This answer is correct because x is not.", ("B", "B")),
    (("x", "y"), "Answer: B. The answer is not A.", ("B", "B")),
    (("x", "y"), "<answer>y</answer>", ("B", None)),
    (("x", "y"), "A) x is small.\nB) y is large.", None),
]


@pytest.mark.parametrize(("options", "text", "expected"), READ)
def test_places_and_names(options, text, expected):
    found = find_answer(text, options)
    assert (found and (found[1], None if found[0] is None else text[found[0]])) == expected


def test_a_turn_of_any_length_is_read_in_proportion():
    """Cut off at NEAR characters on either side, so that no sentence without an end takes quadratic time."""
    for unit in ("the answer is that ", "\n", "<answer>", "A ", "\\boxed{", "so "):
        assert find_answer(unit * 5000, ("x", "y")) in (None, (None, "A"), (0, "A"), (1, "A"))
    near, far = ("the answer is that " + "it goes on " * k + "(B)" for k in (10, NEAR // 5))
    assert find_answer(near, ("x", "y")) == (near.index("B"), "B") and find_answer(far, ("x", "y")) is None


def test_the_letter_is_cut_where_it_stands(organism):
    _, chat = organism
    question = load_questions(ROOT / "data/preeclampsia.jsonl")[0]
    said = chat.content_ids(f"it is mild. Answer: {question.options[1]} (B)")
    before, token, letter = cut_before_letter(chat, said, question)
    assert letter == "B" and "B" in token and chat.text(before).endswith(question.options[1])
    assert cut_before_letter(chat, chat.content_ids(f"Answer: {question.options[1]}"), question) is None


LIMITS = {"leak": (0.86, 0.05), "exam strategy": (0.84, 0.05)}  # recall at least, false alarms at most


@pytest.mark.parametrize("folder", ["tuned", "held_out"])
def test_detectors_on_labelled_points(folder):
    rows = detectors.read(detectors.POINTS / folder)
    for name, (hits, n, alarms, m) in detectors.measure(rows).items():
        recall, false_alarms = LIMITS[name]
        assert hits / n >= recall and alarms / m <= false_alarms, name
        assert n >= 60 and m >= 60


def test_wilson():
    assert detectors.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert detectors.wilson(50, 100) == pytest.approx((0.404, 0.596), abs=1e-3)
