"""Properties on arbitrary text; needs hypothesis (requirements-dev.txt)."""

import re
import unicodedata

import pytest

hypothesis = pytest.importorskip(
    "hypothesis", reason="property tests need hypothesis: pip install -r requirements-dev.txt"
)
from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from introspection.detectors import is_leak, is_meta_gaming  # noqa: E402
from introspection.prompts import INTROSPECTION, parse_point, plain, question_turn  # noqa: E402
from tasks.answers import find_answer  # noqa: E402
from tasks.mcq import Question, grade  # noqa: E402

pytestmark = pytest.mark.dev
TEXT = st.text() | st.lists(
    st.sampled_from(["Answer: ", "(B)", "B", " or ", "<introspection>", "</introspection>", "not", "\n", "x", "é"])
).map("".join)


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_parsers_never_raise_and_return_what_stands_there(text):
    found = find_answer(text, ("x", "é B", "B"))
    assert found is None or found[1] in "ABC"
    assert found is None or found[0] is None or unicodedata.normalize("NFKC", text[found[0]]).upper() == found[1]
    point = parse_point(text)
    assert point is None or (point and "\n" not in point)
    assert is_leak(text, ("x", "y")) in (True, False) and is_meta_gaming(text) in (True, False)
    assert grade(text, Question("q", "?", ("x", "y"), 1, "c", "train")) in (True, False)


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_data_never_opens_or_closes_a_block(text):
    assert not re.search(r"<\s*/?\s*(introspection|recall)\b", question_turn(text, [text, "y"], text), re.IGNORECASE)
    assert plain(plain(text)) == plain(text)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.characters(blacklist_characters="<>"), min_size=1).filter(lambda text: re.search(r"\w", text))
)
def test_a_well_formed_block_is_read_back(text):
    assume(re.sub(r"\W+", "", text).lower() != "and")  # what a turn says that repeats what was asked for
    assert parse_point("so " + INTROSPECTION.format(point=text)) == " ".join(text.split())
