"""Every template and every parser: named constants and pure string functions, no tokenizer.

The constants are the wording of the bundled model, `shared.prompts: organism`. `use` puts another set in their place,
for the whole process: `plain`, for models that others made, or a YAML file of one's own.

A conversation (paper, 'GRPO Training Procedure'; the paper's own wording was lost, see docs/method.md):

    user   QUESTION                                   <- rollout 1 answers this
    model  attempt ... "Answer: text (B)"
    user   WINNER or LOSER                            <- rollout 2 continues the same conversation
    model  <introspection>learning point</introspection>

    user   QUESTION + POINT                           <- rollout 3, a fresh conversation
    model  attempt ... "Answer: text (C)"

Text from questions, options and learning points is data: `plain` keeps it from closing our tags or opening a block.
"""

import re
from pathlib import Path
from string import Formatter

from common import UserError, parse_yaml

LETTERS = "ABCDEFGH"

OPTION = "{text} ({letter})"
BETWEEN_OPTIONS = ", "
QUESTION = "{question}\nOptions: {options}\nThink briefly, then write Answer: text (letter).{point}"
ANSWER = "Answer: {text} ({letter})"  # appended where options are scored,
BEFORE_ANSWER = " "  # after a rationale and this
POINT = "\nLearning point: {point}"
ASK = "Write one learning point for similar questions inside <introspection></introspection>."
ASK_OPTIONAL = (
    "If it helps with similar questions, write one learning point inside <introspection></introspection>, "
    "else leave it empty."
)
WINNER = "Correct. What did you get right? {ask}"
LOSER = "Wrong. The correct answer is {answer} ({letter}).{told} What were you missing? {ask}"
TRY_AGAIN = "The answer is wrong, try again."
EXPLANATION = " Explanation: {explanation}"
PEER = " A peer wrote: {attempt}"
EARLIER = "\nFeedback on an earlier try:"
FEEDBACK = EARLIER + " The correct answer is {answer} ({letter}).{told}"
FEEDBACK_ELSE = EARLIER + "{told}"  # where no letter is told
GOLD = " The correct answer is {gold}."
SIMILAR = "{question}\nOptions: {options}\nWrite a similar question."
# Composer 2: asked for where a context limit cuts an answer
SUMMARISE = "The space is used up. Summarise what you found so far."
SUMMARY = "\nSummary so far: {summary}"
# Reflect-Retry-Reward: the right answer is not shown
REFLECT = "The answer is wrong. Reflect: what went wrong, in a few words?"
RETRY = "Try again.\n{turn}"
# Resd. With an empty playbook its reflector asks as LOSER does; its curator ends in the words of ASK_OPTIONAL.
DIAGNOSE = "Wrong.{feedback}{playbook} What were you missing? {ask}"
CONFIRM = "Correct.{playbook}"  # asks for tags after a right answer
PLAYBOOK = (
    "\nPlaybook:\n{entries}\nFor each entry that helped or misled you write a line 'id: helpful' or 'id: harmful'."
)
CURATE = "Playbook:\n{entries}\nWhat does it lack? Begin a new entry with its section ({sections}) and a colon. {ask}"
ATTEMPT = " You wrote: {attempt}."  # the student's own wrong answer, shown to its teacher
INTROSPECTION = "<introspection>{point}</introspection>"
OPENING = INTROSPECTION.partition("{point}")[0]
RECALL = "<recall>{point}</recall>"  # what stage 2 teaches the model to write before its answer, where it helps

# For models that follow instructions: options one a line, the point apart and before the instruction, a writer who is
# asked for a rule and not for the answer, an answer line that is easy to follow. What is missing stays as above.
PLAIN = {
    "OPTION": "{letter}) {text}",
    "BETWEEN_OPTIONS": "\n",
    "QUESTION": "{question}\n\n{options}\n{point}\n"
    "Think it through in a few sentences. Then give your answer on a last line of its own: the word Answer, a colon "
    "and the letter of one option.",
    "ANSWER": "Answer: {letter}) {text}",
    "BEFORE_ANSWER": "\n\n",
    "POINT": "\nA lesson from earlier questions, for use where it applies:\n{point}\n",
    "ASK": "Now write down one lesson that will help with other questions of this kind: a general rule, with the "
    "condition under which it holds. Do not mention this question, its options or its letters. Write it in one or two "
    "sentences between <introspection> and </introspection>.",
    "ASK_OPTIONAL": "If there is a lesson that will help with other questions of this kind, write it down: a general "
    "rule, with the condition under which it holds. Do not mention this question, its options or its letters. Write it "
    "in one or two sentences between <introspection> and </introspection>. If there is none, leave the block empty: "
    "<introspection></introspection>.",
    "WINNER": "That is correct. What did you get right? {ask}",
    "LOSER": "That is wrong. The correct answer is {letter}) {answer}.{told} What were you missing? {ask}",
    "TRY_AGAIN": "That is wrong. Try again, and end with your answer on a last line of its own.",
    "EXPLANATION": "\nExplanation: {explanation}\n",
    "PEER": "\nSomebody who was right wrote:\n{attempt}\n",
    "FEEDBACK": "\nFeedback on an earlier try: the correct answer is {letter}) {answer}.{told}",
    "SIMILAR": "{question}\n\n{options}\n\nWrite another question on the same rule, for which the same options could "
    "be offered. Write the question alone, without options and without an answer.",
    "REFLECT": "That is wrong. What went wrong? Reflect in a few words.",
}

_OWN_TAG = re.compile(r"<(?=\s*/?\s*(?:introspection|recall)\b)", re.IGNORECASE)
_BLOCK = re.compile(r"<introspection>(.*?)</introspection>", re.DOTALL | re.IGNORECASE)
_ANY_TAG = re.compile(r"</?introspection>", re.IGNORECASE)
_FENCE = re.compile(r"^\s*```\w*\s*|\s*```\s*$")
_TAG = re.compile(r"\W*([a-z]{3}-\d{5})\W+(helpful|harmful|neutral)\W*")
_RECALL = re.compile(r"\s*<recall>(.*?)</recall>", re.DOTALL)
_RECALLED = re.compile(r"\s*<recall>.*?(?:</recall>|\Z)", re.DOTALL)


def plain(text: str) -> str:
    """`text` with our own tags defused (their '<' becomes '('), so that data can never open or close a block."""
    return _OWN_TAG.sub("(", text)


def list_options(options: list[str]) -> str:
    """The options of a question as its turn shows them."""
    listed = zip(LETTERS, options, strict=False)
    return BETWEEN_OPTIONS.join(OPTION.format(letter=letter, text=plain(text)) for letter, text in listed)


def question_turn(question: str, options: list[str], point: str | None = None) -> str:
    """The user turn of rollouts 1 and 3. The point follows the question, so all points share one question prefix."""
    told = "" if point is None else POINT.format(point=plain(point))
    return QUESTION.format(question=plain(question), options=list_options(options), point=told)


def told(explanation: str | None = None, peer: str | None = None) -> str:
    """What a loser is shown beside the right answer: the record's explanation, a winner's attempt, or nothing."""
    shown = "" if explanation is None else EXPLANATION.format(explanation=plain(explanation))
    return shown if peer is None else shown + PEER.format(attempt=plain(peer))


def reflection_turn(won: bool, letter: str | None, answer: str | None, shown: str = "", optional: bool = False) -> str:
    """The user turn of rollout 2: winners are asked what they got right, losers see the right answer (paper, step 2).

    letter None: a blind writer, who is told neither what is right nor whether it was. shown: from `told`.
    """
    ask = ASK_OPTIONAL if optional else ASK
    if won:
        return WINNER.format(ask=ask)
    if letter is None:
        return ask
    return LOSER.format(letter=letter, answer=plain(answer), told=shown, ask=ask)


def blocks_of(text: str) -> list[str] | None:
    """The texts of the well-closed blocks of a model turn, on one line each, out of any fence; None where a tag stands
    alone.
    """
    blocks, lower = _BLOCK.findall(text), text.lower()
    if not blocks or not len(blocks) == lower.count("<introspection>") == lower.count("</introspection>"):
        return None
    texts = [" ".join(_FENCE.sub("", block).split()) for block in blocks]
    # 'between <introspection> and </introspection>' repeats what was asked for
    return ["" if re.sub(r"\W+", "", text).lower() in ("", "and") else text for text in texts]


def parse_point(text: str, optional: bool = False) -> str | None:
    """The one learning point in a model turn; None without exactly one well-closed block that is not empty.

    An empty block beside it only echoes what was asked for. Alone it is None too, unless points are optional: then it
    is "", the decision not to write one.
    """
    blocks = blocks_of(text)
    if blocks is None:
        return None
    points = [block for block in blocks if block]
    if points:
        return points[0] if len(points) == 1 else None
    return "" if optional else None


def parse_opened(text: str, optional: bool = False) -> str | None:
    """The learning point in a turn whose block was opened for the writer: all up to the next tag or the turn's end."""
    point = " ".join(_FENCE.sub("", _ANY_TAG.split(text)[0]).split())
    return point or ("" if optional else None)


def parse_entries(text: str) -> list[str] | None:
    """What a curator adds, one text a block and on one line.

    An empty block adds nothing. None without any well-closed block.
    """
    blocks = blocks_of(text)
    return None if blocks is None else [entry for entry in blocks if entry]


def parse_tags(text: str) -> dict[str, str]:
    """{id: helpful | harmful | neutral} from the lines of a model turn that hold these two and nothing else.

    One tagged both ways is left out.
    """
    found: dict[str, set[str]] = {}
    for name, tag in (match.groups() for match in map(_TAG.fullmatch, text.splitlines()) if match):
        found.setdefault(name, set()).add(tag)
    return {name: tags.pop() for name, tags in found.items() if len(tags) == 1}


def parse_recall(text: str) -> str | None:
    """The learning point that a model turn recalls before anything else, on one line; None if it recalls none."""
    found = _RECALL.match(text)
    return " ".join(found.group(1).split()) or None if found else None


def without_recall(text: str) -> str:
    """A model turn without the learning point that it recalls before anything else; nothing is left of a cut one."""
    found = _RECALLED.match(text)
    return text[found.end() :].lstrip() if found else text


# ---- sets of templates ---------------------------------------------------------------------------------------------
# All that a set may word; tags are no part of it, so that parsers need not know which set is in use.
TEMPLATES = (
    "OPTION BETWEEN_OPTIONS QUESTION ANSWER BEFORE_ANSWER POINT ASK ASK_OPTIONAL WINNER LOSER TRY_AGAIN EXPLANATION "
    "PEER FEEDBACK FEEDBACK_ELSE GOLD SIMILAR SUMMARISE SUMMARY REFLECT RETRY DIAGNOSE CONFIRM PLAYBOOK CURATE ATTEMPT"
).split()
ORGANISM = {name: globals()[name] for name in TEMPLATES}


def fields(template: str) -> set[str]:
    """The names in braces. Raises ValueError for braces that are not closed."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def use(name: str, root: Path) -> None:
    """Puts the set `shared.prompts` names in the place of the constants above: organism, plain, or a YAML file of
    templates by name, beside `plain` for those that it leaves out.

    Raises UserError with the file and the key of a template that is not known or does not fill in what it must.
    """
    chosen = {"organism": {}, "plain": PLAIN}.get(name)
    if chosen is None:
        chosen = PLAIN | read_templates(root / name)
    globals().update(ORGANISM | chosen)


def read_templates(path: Path) -> dict[str, str]:
    """The templates of a YAML file, by name in capitals."""
    if not path.is_file():
        raise UserError(f"shared.prompts: expected organism, plain or a YAML file, and there is no file '{path}'")
    given = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected templates by name, such as question: ...")
    made = {}
    for key, text in given.items():
        name = str(key).upper()
        if name not in ORGANISM or not isinstance(text, str):
            raise UserError(f"{path}: '{key}': expected the text of one of {', '.join(sorted(ORGANISM)).lower()}")
        try:
            found = fields(text)
        except ValueError as error:
            raise UserError(f"{path}: '{key}': {error} (a brace that is meant is written twice)") from error
        if found != fields(ORGANISM[name]):
            needed = ", ".join(f"{{{field}}}" for field in sorted(fields(ORGANISM[name]))) or "nothing in braces"
            raise UserError(f"{path}: '{key}': expected a text with {needed}, got {sorted(found)}")
        made[name] = text
    return made
