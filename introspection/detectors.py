"""What a learning point must not be: the answer of its own question (a leak), or exam strategy instead of knowledge."""

import functools
import re

# A letter that is chosen, named right, or all there is; "choose hepatitis B vaccine" is none.
_STATES_LETTER = re.compile(
    r"\b(?i:answer|option|choose|pick|select|letter|choice|go with|take)\b(?i:\s+(?:is|was|option|letter|answer))*"
    r"\s*:?\s*\(?[A-H]\)?(?=\s*(?:$|[.;,!)]|is\b))"
    r"|(?:^|[\s(])[A-H]\)?\s+(?i:is|was)\s+(?i:the\s+)?(?i:correct|right)|^\s*\(?[A-H]\)?\s*[.!]?\s*$"
)
_STATES_ANSWER = re.compile(
    r"\b(?:correct|right|best)\s+(?:answer|option|choice|action|step)\b|\bthe\s+(?:answer|option|choice)\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\d{2}|\b(?:if|when|whenever|once|unless|because|below|above|over|under|with|without|between|exceeds?|"
    r"reach(?:es)?|least|both|either|"
    r"and|means|after|during|despite|severe|mild|high|low|raised)\b",
    re.IGNORECASE,
)
_FILLER = set(
    "a always an answer be best case choose do give go here in is it must need needs next now patient patients pick "
    "please right "
    "should so step take that the then this to use was with".split()
)
_EXAM = re.compile(
    r"multiple.choice|\b(?:options?|answers?|choices?)\b.{0,30}"
    r"\b(?:reject|eliminat|not tried|was not|repeatedly|most extreme|longest|right)"
    r"|\b(?:most extreme|longest|strongest)\b.{0,20}\b(?:one|option|answer|choice|action)"
    r"|\bin (?:a|an|the) (?:test|exam)|\btest.taking"
    r"|\btry the option|process of elimination|\bguess",
    re.IGNORECASE,
)


@functools.cache  # a bank has more options than the 512 patterns that `re` remembers
def _whole_words(option: str) -> re.Pattern:
    return re.compile(rf"(?<!\w){re.escape(option)}(?!\w)", re.IGNORECASE)


def quoted(text: str, options: tuple[str, ...]) -> list[str]:
    """The options whose text stands in a point, as whole words."""
    return [option for option in options if _whole_words(option).search(text)]


def states_answer(text: str, options: tuple[str, ...]) -> bool:
    """Whether a point names an answer without a condition: a letter, 'the answer is ...', or little but an option's
    text.

    A rule that names actions ('urgent referral from 140/90') is no leak: the ideal point of the paper quotes option
    texts.
    """
    if _STATES_LETTER.search(text):
        return True
    named = quoted(text, options)
    rest = text
    for option in named:
        rest = re.sub(re.escape(option), " ", rest, flags=re.IGNORECASE)
    if _CONDITION.search(rest):
        return False
    empty = all(word in _FILLER for word in re.findall(r"[a-z]+", rest.lower()))  # 'the patient needs', 'always', 'do'
    return bool(_STATES_ANSWER.search(text)) or (bool(named) and empty)


def is_leak(
    text: str,
    options: tuple[str, ...],
    gain_source: float | None = None,
    gain_twin: float | None = None,
    samples: int = 0,
) -> bool:
    """Whether a learning point leaks the answer of its own question.

    Where twins were measured they decide whether an option's text is quoted as a rule or as the answer: a leak helps on
    the source question and hurts on the twin, whose right option is another. Gains are accuracies with minus without
    the point, over `samples` answers each; below 4 they are noise. A letter or a bare option is a leak whatever was
    measured.
    """
    if states_answer(text, options):
        return True
    if gain_source is None or gain_twin is None or samples < 4 or not quoted(text, options):
        return False
    return gain_source - gain_twin > 2 * (0.5 / samples) ** 0.5 and gain_source > 0 > gain_twin


def is_meta_gaming(text: str) -> bool:
    """Whether a point is exam strategy instead of knowledge (paper, 'Meta-Gaming')."""
    return bool(_EXAM.search(text))
