"""Sets of templates: the organism's to the byte, plain for other models, a file of one's own; and blocks in turns."""

import pytest

from common import ROOT, UserError
from introspection import prompts


@pytest.fixture(autouse=True)
def organism_again():
    yield
    prompts.use("organism", ROOT)


def test_the_organisms_turns_to_the_byte():
    prompts.use("plain", ROOT)
    prompts.use("organism", ROOT)
    asked = "Q?\nOptions: x (A), y (B)\nThink briefly, then write Answer: text (letter)."
    assert prompts.question_turn("Q?", ["x", "y"]) == asked
    assert prompts.question_turn("Q?", ["x", "y"], "p") == f"{asked}\nLearning point: p"
    ask = "Write one learning point for similar questions inside <introspection></introspection>."
    lost = "Wrong. The correct answer is y (B). Explanation: e What were you missing? "
    assert prompts.reflection_turn(False, "B", "y", prompts.told("e")) == lost + ask
    assert prompts.reflection_turn(True, "B", "y") == f"Correct. What did you get right? {ask}"


def test_plain_turns():
    prompts.use("plain", ROOT)
    turn = prompts.question_turn("Q?", ["x", "y"], "a point")
    question, options, point, instruction = turn.split("\n\n")
    assert (question, options) == ("Q?", "A) x\nB) y") and point.endswith("\na point") and "Answer" in instruction
    assert prompts.question_turn("Q?", ["x", "y"]).startswith("Q?\n\nA) x\nB) y\n\n")
    # All points of a question share its prefix, and the point never stands in the instruction.
    other = prompts.question_turn("Q?", ["x", "y"], "another")
    assert other.partition("another")[0] == turn.partition("a point")[0]
    lost = prompts.reflection_turn(False, "B", "y", prompts.told("e", "p"))
    assert (
        "B) y" in lost and "\nExplanation: e\n" in lost and "general rule" in lost and lost.count("introspection>") == 2
    )


def test_every_set_fills_in_the_same_fields():
    assert set(prompts.PLAIN) <= set(prompts.TEMPLATES)
    for name, text in prompts.PLAIN.items():
        assert prompts.fields(text) == prompts.fields(prompts.ORGANISM[name]), name


def test_a_set_of_ones_own_stands_on_plain(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('option: "{letter}: {text}"\nwinner: "Good! {ask}"\n')
    prompts.use(str(path), ROOT)
    assert "A: x\nB: y" in prompts.question_turn("Q?", ["x", "y"])
    assert prompts.reflection_turn(True, "A", "x").startswith("Good! Now write down")


BROKEN = {
    "no such file": (None, "no file"),
    "unknown": ("optoin: a", "'optoin': expected the text of one of answer, ask, "),
    "no text": ("option: 3", "'option'"),
    "a list": ("- a", "expected templates by name"),
    "a field is missing": ('option: "{letter}"', r"'option': expected a text with {letter}, {text}, got \['letter'\]"),
    "a field too many": ('winner: "{ask} {letter}"', "'winner'"),
    "a brace": ('winner: "{ask"', "written twice"),
    "tags are fixed": ('introspection: "{point}"', "'introspection'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_set_is_one_line(tmp_path, case):
    text, told = BROKEN[case]
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        prompts.use(str(path), ROOT)
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)
    assert prompts.question_turn("Q?", ["x"]).startswith("Q?\nOptions"), "nothing is put in place"


BLOCKS = [  # (turn, point, point where one is optional)
    ("<Introspection>Check the dose first.</INTROSPECTION>", "Check the dose first.", "Check the dose first."),
    ("I write it inside <introspection></introspection>.\n<introspection>a rule</introspection>", "a rule", "a rule"),
    ("<introspection>\n```\na rule\n```\n</introspection>", "a rule", "a rule"),
    ("```text\n<introspection>a\nrule</introspection>\n```", "a rule", "a rule"),
    ("<introspection>```markdown\na `rule`\n```</introspection>", "a `rule`", "a `rule`"),
    ("One lesson between <introspection> and </introspection>.", None, ""),
    ("Between <introspection> and </introspection>: <introspection>a rule</introspection>", "a rule", "a rule"),
    ("between `<introspection>` and `</introspection>`: <introspection>a rule</introspection>", "a rule", "a rule"),
    ("<introspection>...</introspection>", None, ""),
    ("<introspection> </introspection>", None, ""),
    ("<introspection></introspection> <Introspection></Introspection>", None, ""),
    ("<introspection>a</introspection><Introspection>b</Introspection>", None, None),
    ("<introspection>a</introspection> and <introspection>", None, None),
    ("a </introspection>", None, None),
]


@pytest.mark.parametrize(("text", "point", "optional"), BLOCKS)
def test_blocks_as_models_write_them(text, point, optional):
    assert (prompts.parse_point(text), prompts.parse_point(text, optional=True)) == (point, optional)
