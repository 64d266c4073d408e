"""Every template and every parser: named constants and pure string functions, no tokenizer, no I/O.

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

LETTERS = "ABCDEFGH"

OPTION = "{text} ({letter})"
QUESTION = "{question}\nOptions: {options}\nThink briefly, then write Answer: text (letter)."
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
RECALL = "<recall>{point}</recall>"  # what stage 2 teaches the model to write before its answer, where it helps

_OWN_TAG = re.compile(r"<(?=\s*/?\s*(?:introspection|recall)\b)", re.IGNORECASE)
_BLOCK = re.compile(r"<introspection>(.*?)</introspection>", re.DOTALL)
_TAG = re.compile(r"\W*([a-z]{3}-\d{5})\W+(helpful|harmful|neutral)\W*")
_RECALL = re.compile(r"\s*<recall>(.*?)</recall>", re.DOTALL)


def plain(text: str) -> str:
    """`text` with our own tags defused (their '<' becomes '('), so that data can never open or close a block."""
    return _OWN_TAG.sub("(", text)


def list_options(options: list[str]) -> str:
    """The options of a question as its turn shows them."""
    listed = zip(LETTERS, options, strict=False)
    return ", ".join(OPTION.format(letter=letter, text=plain(text)) for letter, text in listed)


def question_turn(question: str, options: list[str], point: str | None = None) -> str:
    """The user turn of rollouts 1 and 3. The point follows the question, so all points share one question prefix."""
    turn = QUESTION.format(question=plain(question), options=list_options(options))
    return turn if point is None else turn + POINT.format(point=plain(point))


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


def parse_point(text: str, optional: bool = False) -> str | None:
    """The one learning point in a model turn, on one line; None without exactly one well-closed block.

    An empty block is None too, unless points are optional: then it is "", the decision not to write one.
    """
    blocks = _BLOCK.findall(text)
    if len(blocks) != 1 or text.count("<introspection>") != 1 or text.count("</introspection>") != 1:
        return None
    point = " ".join(blocks[0].split())
    return point if point or optional else None


def parse_entries(text: str) -> list[str] | None:
    """What a curator adds, one text a block and on one line.

    An empty block adds nothing. None without any well-closed block.
    """
    blocks = _BLOCK.findall(text)
    if not blocks or not len(blocks) == text.count("<introspection>") == text.count("</introspection>"):
        return None
    return [entry for entry in (" ".join(block.split()) for block in blocks) if entry]


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
    """A model turn without the learning point that it recalls before anything else."""
    found = _RECALL.match(text)
    return text[found.end() :].lstrip() if found else text
