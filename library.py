"""The library of learning points: records, merging, the best point of a question, leak and meta-gaming detectors.

A record (library.jsonl) has the keys of README 'Library'; what was not measured is null. The file is plain JSONL, so that
points written with one model can be read, merged and used with another.
"""

import json
import re
from pathlib import Path

from common import UserError

KEYS = (
    "id", "text", "question_id", "exchange_id", "cluster", "source", "step", "writer", "reader", "verified_on",
    "advantage_same", "advantage_transfer", "ci95", "leak", "meta_gaming", "count",
)  # fmt: skip

_STATES_LETTER = re.compile(
    r"\b(?:answer|option|choice|choose|pick|select|letter|correct)\b[^.;]{0,24}?(?:\(([A-H])\)|\b([B-H])\b|\bA\b(?!\s+[a-z]))|\(([A-H])\)"
)
_STATES_ANSWER = re.compile(r"\bthe\s+(?:(?:correct|right|best)\s+)?(?:answer|option|choice)\s+(?:is|was|must be|should be)\b", re.IGNORECASE)
_CONDITION = re.compile(
    r"\d|\b(?:if|when|whenever|once|from|below|above|over|under|at|with|without|for|unless|because|means|needs?|decides?|"
    r"given|between|exceeds?|reach(?:es)?|least|in|is|are|explains?|points? to)\b",
    re.IGNORECASE,
)
_EXAM = re.compile(
    r"multiple.choice|\b(?:options?|answers?|choices?)\b.{0,30}\b(?:reject|eliminat|not tried|was not|repeatedly|most extreme|longest|right)"
    r"|\b(?:most extreme|longest|strongest)\b.{0,20}\b(?:one|option|answer|choice|action)|\bin (?:a|an|the) (?:test|exam)|\btest.taking"
    r"|\btry the option|process of elimination|\bguess",
    re.IGNORECASE,
)


def states_answer(text: str, options: tuple[str, ...]) -> bool:
    """Whether a point names an answer without a condition: a letter, 'the answer is ...', or nothing but an option's text.

    A rule that names actions ('urgent referral from 140/90') is no leak: the ideal point of the paper quotes option texts.
    """
    if _STATES_LETTER.search(text) or _STATES_ANSWER.search(text):
        return True
    lowered = text.lower()
    quoted = [option for option in options if option.lower() in lowered]
    rest = lowered
    for option in quoted:
        rest = rest.replace(option.lower(), " ")
    return bool(quoted) and not _CONDITION.search(rest)


def is_leak(text: str, options: tuple[str, ...], gain_source: float | None = None, gain_twin: float | None = None) -> bool:
    """Whether a learning point leaks the answer of its own question.

    Where twins were measured they decide among the points that quote an option or a letter: a leak helps on the source
    question and hurts on the twin, whose right option is another. Gains are accuracies with minus without the point.
    """
    if gain_source is not None and gain_twin is not None and quotes_option(text, options):
        return gain_source > 0 > gain_twin
    return states_answer(text, options)


def quotes_option(text: str, options: tuple[str, ...]) -> bool:
    """Whether a point names a letter or contains an option's text: only such a point can leak."""
    return bool(_STATES_LETTER.search(text)) or any(option.lower() in text.lower() for option in options)


def is_meta_gaming(text: str) -> bool:
    """Whether a point is exam strategy instead of knowledge (paper, 'Meta-Gaming')."""
    return bool(_EXAM.search(text))


def normalized(text: str) -> str:
    return " ".join(re.sub(r"[^\w/]+", " ", text.lower()).split())


def load_library(path: Path) -> list[dict]:
    """Records of a library file. Raises UserError with the line of a broken record; a torn last line counts as broken."""
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON ({error.msg})") from error
        missing = [key for key in KEYS if key not in record] if isinstance(record, dict) else list(KEYS)
        if missing:
            raise UserError(f"{path}:{number}: missing {', '.join(missing)}")
        records.append(record)
    return records


def merge(records: list[dict]) -> list[dict]:
    """One record for each (question, wording), counts and verification samples pooled, in order of first appearance."""
    merged: dict[tuple[str, str], dict] = {}
    for record in records:
        key = (record["question_id"], normalized(record["text"]))
        if key not in merged:
            merged[key] = record | {"verified_on": list(record["verified_on"])}
            continue
        kept = merged[key]
        kept["count"] += record["count"]
        kept["verified_on"] += record["verified_on"]
    return list(merged.values())


def accuracies(record: dict) -> tuple[float, float, int]:
    """(accuracy with the point, accuracy without it, number of samples) over everything a record was verified on."""
    n = sum(v["n"] for v in record["verified_on"])
    with_point = sum(v["n"] * v["acc_with"] for v in record["verified_on"]) / n
    return with_point, sum(v["n"] * v["acc_without"] for v in record["verified_on"]) / n, n


def gain(record: dict) -> float:
    """The introspection advantage of a record: accuracy with the point minus fresh accuracy without it."""
    with_point, without, _ = accuracies(record)
    return with_point - without


def interval(record: dict, z: float = 1.96) -> list[float]:
    """[low, high] of a record's advantage at z standard errors; (k + 1) / (n + 2), so that 4 right of 4 is not certainty."""
    with_point, without, n = accuracies(record)
    smoothed = (with_point * n + 1) / (n + 2)
    error = z * (smoothed * (1 - smoothed) / n) ** 0.5
    return [smoothed - without - error, smoothed - without + error]
