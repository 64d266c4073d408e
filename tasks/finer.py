"""FiNER: name the XBRL tags of the numbers in a financial report, in order; the file of ACE and Resd, the one grader.

Records are `context` (the instruction with the list of tags, the sentences) and `target` (the right tags, commas
between them), one JSON object a line; `split` is optional. The data is not bundled (ace-agent/ace, arXiv 2510.04618).
The published grader evaluates both answers as Python; here a number is read as a number and everything else stays text.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

from common import UserError
from introspection import prompts
from tasks.problem import Problem, read_records, split_of_record

ASK = (
    "{context}\n\nGive the tags in the order of the questions, with commas between them: "
    "<answer>FirstTag, SecondTag</answer>."
)
MAX_SHOWN = 500  # characters of the model's own answer in the feedback
_NUMBER = re.compile(r"\$?([-+]?[0-9]{1,30}(?:\.[0-9]{0,30})?)")


@dataclass(frozen=True)
class Finer(Problem):
    """One problem; `turn` is what the model is asked, `target` the right tags, commas between them."""

    id: str
    context: str
    target: str
    split: str

    @property
    def turn(self) -> str:
        # A published context ends in the place where a completion would begin.
        return ASK.format(context=self.context.rstrip().removesuffix("Answer:").rstrip())

    @property
    def gold(self) -> str:
        return f"<answer>{self.target}</answer>"

    def correction(self, said: str) -> str:
        told = prompts.plain(feedback(said, self))
        return f"\n{told}" if told else ""

    def grade(self, text: str) -> bool:
        return grade(text, self)


def answer_of(text: str) -> str | None:
    """What stands in the last closed answer block of a model turn; None without one."""
    for part in reversed(text.split("</answer>")[:-1]):
        if "<answer>" in part:
            return part.rpartition("<answer>")[2]
    return None


def tags_of(answer: str, most: int | None = None) -> list[str | Fraction]:
    """The first `most` tags of an answer, in lower case and without space around them.

    Numbers as values, with or without a dollar sign.
    """
    tags = [tag.strip().lower() for tag in answer.split(",")[:most]]
    return [Fraction(number.group(1)) if (number := _NUMBER.fullmatch(tag)) else tag for tag in tags]


def hits(text: str, problem: Finer) -> list[bool]:
    """Whether a model turn has each of the right tags at its place.

    Missing tags are wrong, all of them without an answer; further ones are ignored.
    """
    said, right = answer_of(text), tags_of(problem.target)
    tags = [] if said is None else tags_of(said, len(right))
    return [tag == wanted for tag, wanted in zip_longest(tags, right)]


def grade(text: str, problem: Finer) -> bool:
    """Whether a model turn's last answer has the right tag at every place."""
    return all(hits(text, problem))


def feedback(text: str, problem: Finer) -> str:
    """What a teacher reads about a model turn: how many tags are right, and the right answer; empty if all are."""
    right, said = hits(text, problem), answer_of(text)
    if all(right):
        return ""
    found = (
        "No answer stands between <answer> and </answer>."
        if said is None
        else f"{sum(right)} of {len(right)} tags are right in '{said.strip()[:MAX_SHOWN]}'."
    )
    return f"{found} The right answer is {problem.target}."


def load(path: Path, key: str = "shared.questions") -> list[Finer]:
    """Problems of a JSONL file; their ids are its line numbers.

    Raises UserError with file and line for a malformed one.
    """
    problems = []
    for where, r in read_records(path, key):
        if not isinstance(r, dict) or not {"context", "target"} <= set(r):
            raise UserError(f"{where}: expected an object with 'context' and 'target'")
        for name in ("context", "target"):
            if not isinstance(r[name], str) or not r[name].strip():
                raise UserError(f"{where}: {name}: expected non-empty text, got {r[name]!r}")
        if not all(tag.strip() for tag in r["target"].split(",")):
            raise UserError(f"{where}: target: expected tags with commas between them, got {r['target']!r}")
        split = split_of_record(r, where, r["context"])
        problems.append(Finer(f"finer-{where.rpartition(':')[2]}", r["context"], r["target"].strip(), split))
    if not problems:
        raise UserError(f"{path}: no problems in the file")
    return problems
