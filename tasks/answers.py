"""Which option a model turn answers: the reader of free text on which every grade of a multiple-choice question rests.

An answer is read where a turn announces one ("the answer is", "Final choice:", a tag, a box, "I would go with") or
affirms one ("B is the best option"); the last statement counts, but for those about another option ("wrong answer: A")
or another case ("if she were pregnant ..."). What is read is a copy of the turn with every option's text replaced by a
mark of the same length, so that "E. coli" or "both A and B" is never taken for letters, and places stay what they were.
Where two readings compete there is no answer: none costs a sample, a wrong one is a wrong reward.
"""

import bisect
import functools
import re
from dataclasses import dataclass

from introspection.prompts import LETTERS, plain, without_recall

HEDGE = "hedge"
NEAR = 400  # characters of a sentence that are looked at: a turn of any length takes time in proportion
FIRST_MARK = 0xE000  # an option's text becomes the mark of its place and as many fillers as it needs
MARK, FILL = "[\ue000-\ue007]\ue0ff*", "\ue0ff"
# Characters that stand for plainer ones, and those that are only markup; each becomes one character.
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_BLANK = '*`$"\u201c\u201d\xa0\u202f\u2009' + "".join(map(chr, range(FIRST_MARK, FIRST_MARK + 256)))
_PLAIN = str.maketrans(
    _FULL_WIDTH | dict.fromkeys(map(ord, _BLANK), " ") | dict.fromkeys(range(0x2010, 0x2016), "-") | {0x2019: "'"}
)
_MARKUP = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{|(?<!\w)_+|_+(?!\w)|(?<!\w)'|'(?!\w)|^[ >]*#+", re.M)

_IS = (
    r"\b(?:is|was|are|remains|(?:would|should|must|could|can|may|might|will|has to|have to)(?: \w+ly)? be"
    r"|(?:seems?|appears?|likely|turns out) to be)\b"
)
_ANNOUNCES = re.compile(
    r"(?<![/\w])(?<!each )(?<!every )(?<!other )"
    r"(?P<noun>(?:answer|option|choice|(?:correct|right|true|false) (?:statement|one|response))\b(?!')"
    r"|ans(?:\.|\b(?=\s*:)))"
    r"|\\boxed\s*\{|\b(?:leaves(?: us with| only)?|leads us to)\b"
    r"|\bI(?:'d|'ll| would| will)? (?:therefore )?(?:go with|choose|pick|select|say|opt for)\b"
    r"|(?:^|(?<=[.\n:!?]))[ \t]*(?P<so>therefore|thus|hence|so)\b,?(?: it (?:is|must be)| it's)?",
    re.IGNORECASE,
)
_LINK = re.compile(rf"[:=>]|\s-\s|\n|{_IS}", re.IGNORECASE)
# What may stand between a link and the option that is named.
_LEAD = re.compile(
    r"(?:[\s:=>-]|\b(?:indeed|therefore|thus|hence|then|now|most|more|likely|probably|clearly|definitely|simply|that|it"
    r"|is|be|still|also|my|final|correct|right|best|as|letter|number)\b"
    rf"|\b(?:the )?(?:answer|option|choice|alternative)\b|\bthe\b(?=\s+{MARK})|\ban?\b(?=[ \t]+{MARK})){{0,12}}",
    re.IGNORECASE,
)
# An option as it is named: its text, a letter beside it; a letter, its text after it.
_ITEM = re.compile(
    rf"(?P<text>{MARK})(?:[\s,.:;-]*[(\[{{]\s*(?:option |choice |answer )?(?P<after>[A-H])\s*[)\]}}]"
    r"|[\s,-]*\b(?:option|choice) (?P<called>[A-H])\b)?"
    rf"|(?P<open>[(\[{{]?)[ \t]*(?P<letter>[A-H])(?![\w'])(?P<close>[ \t]?[)\]}}]?)(?P<gap>[\s.:,)-]*)(?P<own>{MARK})?",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(r"[\s(]*(?:either|both|between|neither|one of|any of|all of)\b", re.IGNORECASE)
_JOINED = re.compile(
    rf"[\s,;)]*(?:\b(?:or|and|nor|plus|as well as|followed by)\b|[/&+,]|-(?={MARK}))\s*"
    r"(?:\b(?:also|possibly|perhaps|maybe|even|either|both|option|choice|or|the)\b\s*)*",
    re.IGNORECASE,
)
_OR = re.compile(rf"\b(?:or|and) (?:option |choice )?(?=[(\[][A-H][)\]])|\bor (?={MARK})")
_GOES_ON = re.compile(
    r"(?:because|since|as|which|for|due|not|rather|with|in|based|given|over|here|is|was|but|and|or|would|when|while|if"
    r"|from|where|that|on|by|to|are)\b"
)
_REASON = re.compile(
    r"\b(?:because|since|due to|as|although|but|while|whereas|rather than|instead of|unlike)\b|;", re.IGNORECASE
)
_DENIED = re.compile(r"\b(?:not|never|except|incorrect|wrong|unlikely|excluding)\b|n't\b", re.IGNORECASE)
_PREDICATE = re.compile(rf"\s*,?\s*(?:{_IS}|\bas)\s+((?:[\w'-]+\s+){{0,6}})$", re.IGNORECASE)
_AFFIRMS = re.compile(
    rf"{_IS} (?:\w+ly |thus |also |indeed |the |most |only )*(?:correct|right|best|accurate|appropriate)\b",
    re.IGNORECASE,
)
# Asides. Before a noun: another option than the answer is meant ('wrong answer: A').
_OTHER = re.compile(
    r"\b(?:wrong|incorrect|(?:least|less) likely|unlikely|(?:next|second)[- ]?(?:best|most likely)|worst"
    r"|earlier|previous|my (?:first|initial|original)|an alternative|runner-up|tempting|mistaken)\s+(?:\w+\s+)?$",
    re.IGNORECASE,
)
# Before it 'drug of', or a condition, and what would hold under it: another case may be meant.
_OF = re.compile(r"\bof\s+$", re.IGNORECASE)
_CASE = re.compile(
    r"\b(?:if|unless|had (?:he|she|it|they|the|this))\b"
    r"|(?:^|[,;.]|\bbut|\bhowever|\bwhile)\s*(?:in|without)\b"
    r"(?! (?:this|that|these|the|our|her|his|such|light|view|summary|conclusion|short)\b)",
    re.IGNORECASE,
)
_WOULD = re.compile(r"\b(?:would|could|might|should)\b|\bI'd\b", re.IGNORECASE)
# In a predicate: one of several is meant ('B is a good option').
_SEVERAL = re.compile(r"(?:\w+ly |also |still )?(?:an?|another|one)\b", re.IGNORECASE)
# Behind a link: a small letter with its sign ('the answer is d. ...').
_SMALL = re.compile(r"\s*[(\[]?[A-Ha-h][.):]\s")
# What stands before a line of its own: nothing, a blank line, a sentence or list item that is over; or it has a label.
_OVER = re.compile(r"(?:\A|\n[ \t]*\n|[.!?:)\]>][ \t]*\n|(?:\A|\n)[ \t]*(?:[-\u2022]|\d{1,2}[.)])[ \t][^\n]*\n)\s*\Z")
_LABELLED = re.compile(rf"[ \t]*(?:[(\[]?[A-H][)\]]|[A-H][.:]?[ \t]*{MARK})")
_ANY = re.compile(rf"{MARK}|(?<![\w.])[(\[]?[A-H]\b")
_BRACKETED = re.compile(rf"{MARK}|[(\[][A-H][)\]]|(?<=option )[A-H]\b")
_CHOSEN = re.compile(rf"{MARK} \([A-H]\)(?=,? not\b)|(?<=is )[A-H]\) {MARK}")
_BESIDE = re.compile(r"[^,;:.()\[\]\n]{0,60}[(\[]([A-H])[)\]]")
_BESIDES = re.compile(r"[ ,)]*(?:, which [^.]*)?")
_APART = re.compile(r"\s*,\s+|\s*-\s+")
_CLOSES = re.compile(r"[ \t)\]}]*(?:[.!\n]|\Z)")
_LINE_END = re.compile(r"[ \t.:)\]}]*(?:\n|\Z)")
_SPACE = re.compile(r"[ \t]*")
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE_END = re.compile(r"\n|(?<!\b[A-Za-z])[.!?](?=\s|$)")


@dataclass(frozen=True)
class Named:
    """An option as a turn names it: its letter (or HEDGE), the letter's place where one is spelled, where it ends."""

    letter: str
    start: int | None
    end: int


@functools.lru_cache(maxsize=4096)  # a bank's questions are graded again and again
def _texts(options: tuple[str, ...]) -> re.Pattern | None:
    """Finds the options' texts as whole words, the longest first, one group each; None where there are only letters."""
    patterns = []
    listed = [_MARKUP.sub(" ", plain(option).translate(_PLAIN)).strip(" .;,\n").split() for option in options]
    for place, words in enumerate(listed):
        if not words:
            continue
        if words[0].lower() in ("a", "an", "the") and len(words) > 1 and words[1:] not in listed:
            words = words[1:]  # "the buyer" is named by "buyer" too
        letter = len(words) == 1 and re.fullmatch(r"[(\[]?[A-Ha-h][)\].]?", words[0])
        start = r"(?<!\w)(?<!\d[.,])" if words[0][0].isalnum() else ""
        end = r"(?!\w|[.,]\d)" if words[-1][-1].isalnum() else ""
        if letter:  # the text "A" is told from the letter A by the letter that stands beside it: "A (C)"
            end += r"(?=\s*[(\[][A-H][)\]])"
        text = r"\s+".join(map(re.escape, words))
        patterns.append((-len(text), f"(?P<o{place}>{start}{text}{end})"))
    return re.compile("|".join(pattern for _, pattern in sorted(patterns)), re.IGNORECASE) if patterns else None


class Turn:
    """A model turn, marked; `options` as they were shown."""

    def __init__(self, text: str, options: tuple[str, ...]):
        self.options, self.shown = options, LETTERS[: len(options) or len(LETTERS)]
        text = text.replace("\r\n", " \n").translate(_PLAIN)
        text = _MARKUP.sub(lambda found: " " * len(found[0]), text)
        texts = _texts(options)

        def mark(found: re.Match) -> str:
            return chr(FIRST_MARK + int(found.lastgroup[1:])) + FILL * (len(found[0]) - 1)

        self.text = texts.sub(mark, text) if texts else text
        self.stops = [stop.start() for stop in _SENTENCE_END.finditer(self.text)]

    def named(self, at: int) -> Named | None:
        """The option named at a place, by text, letter or both; a hedge where these disagree."""
        found = _ITEM.match(self.text, at)
        if found is None:
            return None
        beside = ("text",) if "\n" in (found["gap"] or "") else ("text", "own")  # a new line says something new
        marks = {LETTERS[ord(found[group][0]) - FIRST_MARK] for group in beside if found[group]}
        spelled = next((group for group in ("after", "called", "letter") if found[group]), None)
        if spelled is None:
            return Named(marks.pop(), None, found.end())
        letter = found[spelled].upper()
        if letter not in self.shown:
            return None
        if marks:
            agree = all(self.begins_like(letter, mark) for mark in marks)
            return Named(letter if agree else HEDGE, found.start(spelled), found.end())
        return Named(letter, found.start(spelled), found.end("close")) if self.is_letter(found) else None

    def begins_like(self, letter: str, mark: str) -> bool:
        """Whether the text of one option begins with that of another: 'C. fever or rash' where fever is option A."""
        own, marked = (self.options[LETTERS.index(each)].lower().strip() for each in (letter, mark))
        return own.startswith(marked)

    def is_letter(self, found: re.Match) -> bool:
        """Whether a single letter stands for an option: not the A of 'a beta blocker', the C of 'C. difficile'."""
        at = found.end("gap")
        # A small letter at the end of a line may be an article: 'a\nbeta blocker'.
        ends = found["gap"].count("\n") > (found["letter"] == "a" and found["gap"].startswith("\n"))
        if found["close"].strip() or at == len(self.text) or ends:
            return True
        if found["letter"].islower() and found["gap"][:1] not in (".", ",", ":"):
            return self.text[at] in "<;!?}"
        word = _WORD.match(self.text, at)
        if word is None:
            return True
        if _GOES_ON.match(self.text, at):
            return not found["gap"].startswith("-")
        own = LETTERS.index(found["letter"].upper())
        words = [set(_WORD.findall(option.lower())) for option in self.options]
        if own < len(words) and word[0].lower() in words[own]:
            return True  # "B. Urgent" shortens its own option
        if any(word[0].lower() in others for others in words):
            return False
        return bool(_APART.fullmatch(found["gap"])) or (len(found["gap"]) > 1 and word[0][0].isupper())

    def read_at(self, at: int) -> Named | None:
        """What is named right after an announcement; a hedge where another option is joined to it: 'A or C', 'A, B'."""
        at = _LEAD.match(self.text, at).end()
        item = self.named(at)
        if item is None:
            return Named(HEDGE, None, at) if _UNDECIDED.match(self.text, at) else None
        beside = _BESIDE.match(self.text, item.end) if item.start is None else None
        if beside is not None:  # "vitamin A deficiency (B)": words between an option's text and a letter
            item = Named(item.letter if beside[1] == item.letter else HEDGE, beside.start(1), beside.end())
        _, end = self.sentence(item.end)
        reason = _REASON.search(self.text, item.end, end)
        end = reason.start() if reason else end
        joined = [_JOINED.match(self.text, item.end), *_OR.finditer(self.text, item.end, end)]
        others = [self.named(found.end()) for found in joined if found]
        hedges = any(other and other.letter != item.letter for other in others)
        return Named(HEDGE, None, item.end) if hedges else item

    def sentence(self, at: int) -> tuple[int, int]:
        """(start, end) of the sentence around a place, as far as NEAR carries."""
        k = bisect.bisect_left(self.stops, at)
        start = self.stops[k - 1] + 1 if k else 0
        end = self.stops[k] if k < len(self.stops) else len(self.text)
        return max(start, at - NEAR), min(end, at + NEAR)

    def read_after(self, noun: re.Match) -> Named | None:
        """'the answer is B', 'Answer: text', 'the option that fits best is (C)'."""
        if noun["noun"] is None:
            item = self.read_at(noun.end())
            concludes = item is None or noun["so"] is None or _CLOSES.match(self.text, item.end) is not None
            return item if concludes else None
        beside = self.named(_SPACE.match(self.text, noun.end()).end())
        if beside and not noun["noun"].lower().startswith("ans"):
            return None  # "option B ..." announces nothing
        if beside:
            return None if _DENIED.search(self.text, beside.end, beside.end + 20) else beside
        _, end = self.sentence(noun.end())
        reason = _REASON.search(self.text, noun.end(), end)
        end = reason.start() if reason else end
        links = list(_LINK.finditer(self.text, noun.end(), end + 1))
        for link in links:
            item = self.read_at(link.end())
            if item is not None and (link[0] != "\n" or self.ends_line(item.end)):
                wrapped = link[0] == "\n" and _DENIED.search(self.text, noun.end(), link.start())
                return None if wrapped else item  # "the answer is not this or", and the next line
        if not links or noun["noun"].lower() != "answer" or _DENIED.search(self.text, noun.end(), end):
            return None
        if _SMALL.match(self.text, links[0].end()):
            return None  # "the answer is d. ...": what is named later is its reason
        # Named later in the sentence: "the answer is that it cannot detect this one (option B)".
        return self.only(links[0].end(), end)

    def about_other(self, noun: re.Match) -> bool:
        """Whether another option than the answer is stated: 'wrong answer: A', 'the next best choice is C'."""
        start, _ = self.sentence(noun.start())
        return _OTHER.search(self.text, start, noun.start()) is not None

    def about_case(self, noun: re.Match) -> bool:
        """Whether it may be about another case: 'if she were pregnant, the answer would be B', 'the drug of choice'."""
        start, _ = self.sentence(noun.start())
        case = _CASE.search(self.text[start : noun.start()])  # a slice, for '^'
        would = case and _WOULD.search(self.text, start + case.end(), self.sentence(noun.start())[1])
        return bool(_OF.search(self.text, start, noun.start()) or would)

    def about_several(self, noun: re.Match) -> bool:
        """Whether it may be said of others too: 'B is a good option', 'B is another choice'."""
        start, _ = self.sentence(noun.start())
        predicate = _PREDICATE.search(self.text[start : noun.start()])
        return _SEVERAL.match(predicate[1]) is not None

    def all_named(self, where: re.Pattern, start: int, end: int) -> list[Named]:
        items = [self.named(found.start()) for found in where.finditer(self.text, start, end)]
        return [item for item in items if item]

    def only(self, start: int, end: int) -> Named | None:
        """The one option that a stretch of text names, a hedge where it names several."""
        items = self.all_named(_BRACKETED, start, end)
        if len({item.letter for item in items}) > 1:
            return Named(HEDGE, None, end)
        return items[0] if items else None

    def subject(self, end: int) -> Named | None:
        """The option that a sentence names right before a place: 'B is ...', 'option C (text) seems ...'."""
        start, _ = self.sentence(end)
        items = self.all_named(_ANY, start, end)
        if not items or not _BESIDES.fullmatch(self.text, items[-1].end, end):
            return None
        if len(items) > 1 and _JOINED.fullmatch(self.text, items[-2].end, items[-1].start or items[-1].end):
            return Named(HEDGE, None, end)
        return items[-1]

    def read_before(self, noun: re.Match) -> Named | None:
        """'B is the most likely answer', 'option C (text) seems to be the best choice'."""
        start, _ = self.sentence(noun.start())
        predicate = _PREDICATE.search(self.text[start : noun.start()])
        if noun["noun"] is None or predicate is None or _DENIED.search(predicate[0]):
            return None
        return self.subject(start + predicate.start())

    def affirmed(self) -> Named | None:
        """'Option B is correct', where this is said of one option only."""
        items = [self.subject(found.start()) for found in _AFFIRMS.finditer(self.text)]
        items += [self.named(found.start()) for found in _CHOSEN.finditer(self.text)]
        items = [item for item in items if item]
        return items[-1] if len({item.letter for item in items}) == 1 else None

    def last_statement(self) -> tuple[re.Match, Named] | None:
        """(what announces it, what is named) of the answer that is stated last; None without a statement.

        One about another option, or one of several, counts only where there is no other; one about another case that
        names another option than the answer makes a hedge of both.
        """
        others, cases, several = [], [], []
        for noun in reversed(list(_ANNOUNCES.finditer(self.text))):
            before = self.read_before(noun)
            item = before or self.read_after(noun)
            if item is None:
                continue
            aside = others if self.about_other(noun) else cases if self.about_case(noun) else None
            if aside is None and before and self.about_several(noun):
                aside = several
            if aside is None:
                differs = any(case.letter != item.letter for _, case in cases)
                return noun, Named(HEDGE, None, item.end) if differs else item
            aside.append((noun, item))
        return next(iter(cases + others + several), None)

    def begins_anew(self, at: int) -> bool:
        return _OVER.search(self.text, max(0, at - NEAR), at) is not None

    def ends_line(self, at: int) -> bool:
        return _LINE_END.match(self.text, at) is not None

    def alone(self) -> Named | None:
        """A line that names an option and says nothing else, first or last in its turn; no such line names another."""
        lines = [m for m in re.finditer(r"[^\n]+", self.text) if m[0].strip()]
        items = []
        for line in lines:
            item = self.read_at(line.start())
            if item and self.ends_line(item.end) and not line[0].rstrip().endswith(":"):  # that is a heading
                items.append((line, item))
        # Others go on with a sentence that was wrapped.
        apart = [(m, item) for m, item in items if _LABELLED.match(m[0]) or self.begins_anew(m.start())]
        outer = [item for line, item in apart if line in (lines[0], lines[-1])]
        return outer[-1] if outer and len({item.letter for _, item in items}) == 1 else None


def turn_of(text: str, options: tuple[str, ...] | list[str]) -> Turn:
    """A model turn for its answer: a recalled point before it answers nothing. Places stay what they were."""
    said = without_recall(text)
    return Turn("\n" * (len(text) - len(said)) + said, tuple(options))


def stated_from(text: str, options: tuple[str, ...] | list[str]) -> int | None:
    """Where a turn begins to announce its last answer: at "Answer", else at the sentence; None without one."""
    turn = turn_of(text, options)
    noun, _ = turn.last_statement() or (None, None)
    if noun is None:
        return None
    capital = noun["noun"] and noun["noun"][0].isupper()
    return noun.start("noun") if capital else turn.sentence(noun.start())[0]


def find_answer(text: str, options: tuple[str, ...] | list[str]) -> tuple[int | None, str] | None:
    """(place of the letter, letter) of the answer that a turn states last; the place is None where an option is named
    by its text alone.

    None where a turn states no answer, hedges, or names a letter that was not shown. options: as they were shown.
    """
    turn = turn_of(text, options)
    _, item = turn.last_statement() or (None, turn.affirmed() or turn.alone())
    return None if item is None or item.letter == HEDGE else (item.start, item.letter)
