"""introspection/detectors.py on the forms of real models: what is the answer in disguise, and what is not."""

import pytest

from introspection.detectors import is_meta_gaming, quoted, states_answer

OPTIONS = ("aspirin", "heparin", "warfarin", "alteplase")
LEAKS = [  # each of every option, whatever its letter
    "{L}) {t}", "({L}) {t}", "{L}. {t}", "{t} ({L})", "**{L}) {t}**", ": {L}) {t}", "Correct: {L}) {t}",
    "Remember: {L}) {t}.", "Lesson: {t}", "Lesson: {L}) {t}", "**Key point:** {t}.",
    "In questions like this, the answer is {L}) {t}.", "For similar questions, the answer is {t}.",
    "For questions of this kind, choose {L}) {t}.", "In similar cases, the correct choice is {t}.",
    "When asked this, the answer is {L}) {t}.", "In such a case, {L}) {t}.",
]  # fmt: skip


@pytest.mark.parametrize("form", LEAKS)
def test_an_answer_in_disguise_is_a_leak_whatever_its_letter(form):
    assert all(
        states_answer(form.format(L=letter, t=text), OPTIONS) for letter, text in zip("ABCD", OPTIONS, strict=True)
    )


@pytest.mark.parametrize(
    "text",
    [
        "In pregnancy give heparin, not warfarin.", "Lesson: in pregnancy use heparin, not warfarin.",
        "In cases of pregnancy heparin is the anticoagulant.", "A: airway comes first in trauma, then breathing.",
        "ABC: A: airway, B: breathing, C: circulation.", "Group A streptococcus causes rheumatic fever.",
        "In questions of dosage, renal function decides about heparin.",
        "If platelets fall after a week, suspect antibodies. In such a case, give alteplase.",
    ],
)  # fmt: skip
def test_rules_and_labels_are_none(text):
    assert not states_answer(text, OPTIONS)


def test_a_letter_is_a_leak_behind_a_condition_too():
    assert states_answer(
        "If platelets fall after a week, suspect antibodies. In such a case, the answer is D.", OPTIONS
    )


def test_a_point_in_tags_of_recall_is_seen():
    """The reader of a point sees what stands in them, so the detector does."""
    text = "<recall>The answer is heparin</recall>"
    assert states_answer(text, OPTIONS) and quoted(text, OPTIONS) == ["heparin"]


def test_words_of_pharmacology_are_no_exam_strategy():
    assert not is_meta_gaming("In moderate asthma an inhaled steroid is the drug of choice.")
    assert not is_meta_gaming("Narrow complexes leave fewer treatment options.")
    assert is_meta_gaming("The most moderate choice is usually right.")
