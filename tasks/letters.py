"""What names an option by its letter or its place, and is wrong once the options stand in another order.

Options that refer to options ("both A and C", "all of the above") must not be moved; an explanation ("Ans. is b") loses
the sentences that do. A letter that is part of a name ("hepatitis B", "vitamins A and D") refers to nothing. In doubt
an option stays and a sentence goes: either costs little, and a wrong letter would teach a wrong answer.
"""

import functools
import re
import string

from introspection.prompts import LETTERS

# ---- options -------------------------------------------------------------------------------------------------------
_EVERY = {"all", "any", "both", "either", "neither", "none"}
# Words that say nothing beside a reference: an option of these and of labels alone is one.
_AROUND = _EVERY | set(
    "above alone also and answer answers are as be below but can choice choices correct equal equally except false "
    "following four incorrect is may nor not of only option options or plus possible right same statement statements "
    "the them these those three together true two was well were wrong".split()
)
_JOINED = "a?b?c?d?e?f?g?h?"  # letters in the order of the alphabet, such as b or acd
_LABEL = re.compile(rf"{_JOINED}|{_JOINED.upper()}|[1-8]|v?i{{1,3}}|iv|v|V?I{{1,3}}|IV|V")
_BARE = re.compile(rf"{_JOINED}|[A-H]")
_NUMBER = re.compile(r"\d\s*[-–./:]\s*\d")
_THING = (  # what a letter can be the name of: "B cells", "C and D waves"
    r"(?:agonist|antibod(?:y|ie)|antigen|band|bundle|cell|chain|deficien(?:cy|t)|dimer|fib(?:er|re)|line|lineage"
    r"|lymphocyte|peptide|ratio|reactive|receptor|section|segment|stain|strain|toxin|type|virus(?:e)?|vitamin|wave)s?\b"
)
_PHRASE = re.compile(
    r"\b(?:all|any|both|each|either|neither|none)\s+of\s+(?:(?:the|these|those)\s+)?"
    r"(?:above|answers?|choices?|following|given|listed|mentioned|options?|others?|statements?|them|these|those)\b"
    r"|^\W*(?:all|any|both|either|neither|none)\s+of\s+(?:the|these|those)\s+\w+\W*$"
    r"|\b(?:of|the)\s+above\b(?!\s*[\d<>])"
    r"|\babove[\s-]+(?:all|answers?|both|choices?|mentioned|options?|said|statements?)\b"
    r"|\b(?:all|any|as|both|either|mentioned|neither|none)\s+above\W*$"
    r"|\b(?:first|fourth|last|other|preceding|previous|remaining|second|third)\s+(?:three\s+|two\s+)?options?\b"
    r"|\b(?:choice|option)s?\s*[:-]?\s*"
    r"(?:\(?(?-i:[A-H])\b|[([][a-h][)\]]|[a-h](?:\W*$|\s*(?:[,&/]|and\b|or\b)\s*[a-h]\b))",
    re.IGNORECASE,
)
_PHRASE_NEEDS = (" of ", "above", "choice", "option")  # most options have none of these, and need no slow search
_PAIR = re.compile(
    r"(?:[A-H]|\([a-h]\))(?!\w)\W*(?:[,&+/]|(?:and|nor|or)\b)\W*(?:[A-H](?![\w'’])|\([a-h]\))"
    rf"(?!\W*{_THING})"
)
# What stands before a pair that is no name, in contrast to "hepatitis B and C".
_BEFORE_PAIR = re.compile(
    r"(?:^|\b(?:and|as|between|both|but|by|either|except|from|neither|not|of|only|than|with)\b)\W*\Z", re.IGNORECASE
)
_PREFIX = re.compile(r"\s*[A-Ha-h]\)")  # its label was published with the option


def refer_to_order(options: tuple[str, ...]) -> bool:
    """Whether options refer to options by letter, by place, or as a whole ('both', 'none'): they must not be moved."""
    if all(option.lstrip().startswith(f"{letter}.") for letter, option in zip(LETTERS, options, strict=False)):
        return True
    # "Anaemia only", "coeliac disease only", "both", "neither": wherever they stand, they say what they are about.
    told = sum(option.lower().rstrip(" .").endswith(" only") for option in options) > 1
    return any(_refers(option) or _is_reference(option, told) for option in options)


def _refers(option: str) -> bool:
    """Whether an option refers to others beside what it says: 'B, as in option C', 'both A and B occur together'."""
    lower = option.lower()
    if any(word in lower for word in _PHRASE_NEEDS) and _PHRASE.search(option):
        return True
    pair = _PAIR.search(option)
    return _PREFIX.match(option) is not None or bool(pair and _BEFORE_PAIR.search(option[: pair.start()]))


def _is_reference(option: str, told: bool) -> bool:
    """Whether an option says nothing but which others hold: 'A & C', '1 and 3 are correct', 'All', 'None are true'."""
    around, labels = set(), []
    for word in re.findall(r"\w+", option):
        if word.lower() in _AROUND:
            around.add(word.lower())
        elif _LABEL.fullmatch(word):
            labels.append(word)
        else:
            return False
    if _NUMBER.search(option):
        return False
    if around & _EVERY:
        return not told or len(around) > 1 or bool(labels)
    if not around and len(labels) == 1:  # a bare letter would stand beside another one; "4" and "II" are values
        return _BARE.fullmatch(option.strip(" \t.,:;()[]{}'\"")) is not None
    if around == {"or"} and all(map(str.isdigit, labels)):  # "3 or 4" is a number of things
        return False
    return bool(labels)


# ---- explanations --------------------------------------------------------------------------------------------------
# What opens a published explanation, before the text of the right option: "Ans. is 'b' i.e.,", "Answer- C."
_OPENING = re.compile(
    r"\W*(?:the\s+)?(?:(?:best\s+|correct\s+|right\s+)?ans(?:wer)?|(?:correct|right)\s+(?:choice|option))\b\W*"
    r"(?:is\b\W*)?(?:option\b\W*)?[a-h](?![\w'’]\w|\.\s?(?:coli|difficile|pylori))"
    r"(?:[\s.,:;)\]'\"’”–-]*\bi\.?\s?e\b[.,:;]*+|[\s.,:;)\]'\"’”–-]++|(?=\()|$)\s*+"
    r"(?!(?:and|are|as|because|but|has|is|or|since|was|were)\b)",  # "answer (b) is wrong" is no opening
    re.IGNORECASE,
)
# A sentence ends in front of a capital, so that "i.e. the liver" and "E. coli" stay whole; so does "Ans. B".
_END = re.compile(r"[.!?;\n](?:(?<=[;\n])|(?<![Aa]ns.)['\")\]’”]*(?=\s+[^a-z\s]|[A-Z][a-z]))\s*")
_SINGLE = re.compile(r"\W[A-Ha-h](?!\w)")
_QUOTES = {"(": ")", "[": "]", "（": "）", "'": "'", '"': '"', "`": "'`", "‘": "’", "“": "”"}
_NOUN = r"\b(?:alternative|ans|answer|choice|key|option)s?\b\W*(?:(?:are|be|is|letter|number|option|should|was)\b\W*)*"
_CALLED = re.compile(rf"{_NOUN}\Z", re.IGNORECASE)
_DIRECTLY = re.compile(r"\b(?:alternative|ans|choice|option)s?\W*\Z", re.IGNORECASE)
_VERDICT = re.compile(  # "type A, C is wrong"
    r"\s*(?:[:=–-](?:\s*not\b)?|\b(?:are|is|was|were)\b)\s*(?:correct|false|incorrect|right|true|wrong)\b",
    re.IGNORECASE,
)
_NAMED = re.compile(  # "vitamins A, D and" before an E
    r"(?:\b(?:vit|fig)\.|\b(?:amphotericin|antigen|anti|apo|category|class|cluster|coenzyme|complement|cystatin"
    r"|cytochrome|factor|fibre|fiber|figure|grade|group|hep|hepatitis|immunoglobulin|influenza|inhibin|level|non"
    r"|penicillin|phase|polymyxin|population|protein|rh|section|stage|streptococcus|table|toxin|troponin|type|virus|vit"
    r"|vitamin|wave|zone)s?\b)[ \xa0-]*(?:[A-H]\b[ ,/&]*(?:\b(?:and|or)\b ?)?)*\Z|°\s?\Z",
    re.IGNORECASE,
)
_NAMES = re.compile(rf"[\s-]{_THING}|\.\s?(?:coli|difficile|pylori)\b", re.IGNORECASE)
_VERB = r"\s+(?:and|are|as|because|but|does|had|has|is|or|since|was|were)\b"  # an article stands before none of these
_NO_ARTICLE = {"A": re.compile(rf"\s*[^\w\s]|\s*\Z|{_VERB}"), "a": re.compile(rf"\s*(?:[),;:=&+]|\.\W)|\W*\Z|{_VERB}")}
_UNIT = re.compile(r"(?:[./'’°-]|\d )\Z")  # "19/e", "i.e.", "2 g"
_WORD = re.compile(r"[/'’]|[.-]\w")  # "b/w", "b-globin"
_PLACE = re.compile(  # for a text in small letters: with IGNORECASE it takes three times as long
    rf"{_NOUN}[1-8](?:\W*\Z|\s*[.)\n]|\s*i\.?e)"
    r"|\b(?:alternative|option|statement)s?\W+(?:[1-8]|one|two|three|four)\b"
    r"|\b(?:first|second|third|fourth|fifth|last|previous|next|1st|2nd|3rd|4th)\s+(?:two\s+|three\s+)?"
    r"(?:alternative|answer|choice|option)s?\b"
)
_PLACE_NEEDS = ("alternative", "ans", "choice", "key", "option", "statement")  # and without these no time at all
_GLUED = re.compile(r"[Aa]ns(?:wer)?\W*(?:is\W+)?[A-H](?=[A-Z][a-z])")  # "Ans.BConcussion" has lost a space
_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # unlike str.lower, it moves nothing


@functools.lru_cache(maxsize=4096)
def without_letters(explanation: str) -> str | None:
    """The explanation less the sentences that name an option by its letter or its place; None where nothing is left.

    One that names none comes back as it is.
    """
    text = f" {explanation}"
    places = [found.end() - 1 for found in _SINGLE.finditer(text) if _is_option(text, found.end() - 1)]
    small = text.lower() if text.isascii() else text.translate(_SMALL)
    if any(word in small for word in _PLACE_NEEDS):
        places += [found.start() for found in (*_PLACE.finditer(small), *_GLUED.finditer(text))]
    if not places:
        return explanation
    opening = _OPENING.match(text)
    start, kept = opening.end() if opening else 0, ""
    for end in [*(found.end() for found in _END.finditer(text, start)), len(text)]:
        if not any(start <= place < end for place in places):
            kept += text[start:end]
        start = end
    return kept.strip() if re.search(r"\w", kept) else None


def _is_option(text: str, place: int) -> bool:
    """Whether the single letter at `place` is an option's: neither a word, a unit nor a name. In doubt it is."""
    letter, before, after = text[place], text[max(0, place - 50) : place], text[place + 1 : place + 50]
    if letter in _NO_ARTICLE and not _NO_ARTICLE[letter].match(after):
        article = letter == "a" and re.match(r"\s+[a-z]{2}", after)  # "the answer is a drug"
        return (_DIRECTLY if article else _CALLED).search(before) is not None
    if _CALLED.search(before) or _VERDICT.match(after) or (after and after[0] in _QUOTES.get(before[-1:], "")):
        return True
    if _NAMED.search(before) or _NAMES.match(after):
        return False
    if letter.isupper():
        return not re.match(r"/[I-Z]", after)
    return not _UNIT.search(before) and not _WORD.match(after)
