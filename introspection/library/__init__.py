"""The library of learning points: records, merging, the best point of a question.

A record (library.jsonl) has the keys of docs/reference.md, 'Records'; what was not measured is null. The file is plain
JSONL, so that points written with one model can be read, merged and used with another (`python -m
introspection.library`).
"""

import json
import re
import reprlib
import unicodedata
from pathlib import Path
from zlib import crc32

from common import UserError, check_file, parse_json

KEYS = (
    "id", "text", "question_id", "exchange_id", "cluster", "source", "step", "writer", "reader", "verified_on",
    "advantage_same", "advantage_transfer", "ci95", "leak", "meta_gaming", "count",
)  # fmt: skip


# ---- reading -------------------------------------------------------------------------------------------------------
def is_text(value) -> bool:
    return isinstance(value, str)


def is_count(value) -> bool:
    return type(value) is int and 1 <= value < 10**15  # more digits than a float has are no count


def is_number(value, low: float, high: float) -> bool:
    """JSON's NaN lies nowhere, its true is no 1."""
    return type(value) in (int, float) and low <= value <= high


def is_interval(value) -> bool:
    """Of a difference between accuracies."""
    pair = isinstance(value, list) and len(value) == 2
    return pair and all(is_number(bound, -9, 9) for bound in value) and value[0] <= value[1]


_RECORD = {  # what stands under the keys that are read: in words, and whether a value is that
    "text": ("text", is_text),
    "question_id": ("text", is_text),
    "cluster": ("text", is_text),
    "source": ("text or null", lambda v: v is None or is_text(v)),
    "verified_on": ("a list or null", lambda v: v is None or isinstance(v, list)),
    "ci95": ("two numbers, the lower one first, or null", lambda v: v is None or is_interval(v)),
    "leak": ("true, false or null", lambda v: v is None or isinstance(v, bool)),
    "meta_gaming": ("true, false or null", lambda v: v is None or isinstance(v, bool)),
    "count": ("a whole number of at least 1", is_count),
}
_VERIFIED = {  # the same for an entry of verified_on
    "question_id": ("text", is_text),
    "n": ("a whole number of at least 1", is_count),
    "acc_with": ("a number from 0 to 1", lambda v: is_number(v, 0, 1)),
    "acc_without": ("a number from 0 to 1", lambda v: is_number(v, 0, 1)),
}
_POOLED = {  # what `merge` adds to an entry
    "group": ("text or null", lambda v: v is None or is_text(v)),
    "copies": ("a whole number of at least 1", is_count),
}


def check_values(where: str, record, keys: tuple[str, ...], expected: dict) -> None:
    """Raises UserError unless `record` is an object with all keys, whose values are as expected."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, got {reprlib.repr(record)}")
    missing = [key for key in keys if key not in record]
    if missing:
        raise UserError(f"{where}: missing {', '.join(missing)}")
    for key in keys:
        words, holds = expected.get(key, ("", None))
        if holds and not holds(record[key]):
            raise UserError(f"{where}: '{key}': expected {words}, got {reprlib.repr(record[key])}")


def check_record(where: str, record, keys: tuple[str, ...]) -> None:
    """Raises UserError for a record that the rest of the code could not read."""
    check_values(where, record, keys, _RECORD)
    if "verified_on" not in keys:
        return
    for number, entry in enumerate(record["verified_on"] or (), start=1):
        place = f"{where}: 'verified_on', entry {number}"
        check_values(place, entry, tuple(_VERIFIED), _VERIFIED)
        check_values(place, entry, tuple(key for key in _POOLED if key in entry), _POOLED)
    if record["ci95"] and not record["verified_on"]:
        raise UserError(f"{where}: 'ci95' without 'verified_on': expected what the interval was measured on, or null")


def load_library(path: Path, keys: tuple[str, ...] = KEYS) -> list[dict]:
    r"""Records of a library file, or of a playbook with its keys; lines end in "\n" alone, blank ones are skipped.

    Raises UserError with file and line of a broken record, a torn last line too.
    """
    check_file(path, "library", " (stage 1 writes one)")
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = parse_json(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 text") from error
        except (ValueError, RecursionError) as error:  # a JSONDecodeError is a ValueError
            raise UserError(f"{where}: not JSON ({error})") from error
        check_record(where, record, keys)
        if not record["text"].strip():
            record["text"] = ""  # no point, as where nothing was written
        records.append(record)
    return records


# ---- which points are one ------------------------------------------------------------------------------------------
_WRITTEN = (  # signs of several characters, as the one that they stand for
    (r"(?m)^[ \t]*[-*•●▪■◦][ \t]+", " "),  # a bullet is no minus
    (r"<=", "≤"),
    (r">=", "≥"),
    (r"!=", "≠"),
    (r"->", "→"),
    (r"<-(?!\s*\.?\d)", "←"),  # '<-2' is less than -2
    (r"(?<=[\d)])\s*\*\s*(?=[-.\d(])", "×"),
    (r"\(\s*-\s*\)|-(?=ve\b)", " − "),  # 'gram (-)', 'Rh -ve'
)
_MINUS = re.compile(
    r"(?<![^\W\d_])-(?=\s*\.?\d)"  # before a number: '-2.5', '3 - 5', not 'type-2'
    r"|(?<=\w)-(?![\w-])"  # behind a word: 'HIV-'
)
_PUNCTUATION = re.compile(r"-|[.,:·](?!\d)|(?<!\d)[,:·]|(?<=[^\s\d])\.")  # what of it stands in no number
_ARTICLE = re.compile(r"(?<!\S)(?:a|\AA)(?=\s+(?!(?:and|or)\b)\w)")  # 'hepatitis A', 'a or b' are names
# They turn no rule around. 'from', 'to', 'with', 'or', 'not', 'then' do, and so do 'in two days' and 'for two days'.
_SMALL_WORDS = re.compile(r"(?<!\S)(?:an|and|are|as|at|be|do|give|is|it|of|on|that|the|this|use)(?!\S)")
_NAMES = re.compile(r"\b(?:AS|AT|BE|DO|IT|ON)\b")  # aortic stenosis is no small word


def _apart(char: str) -> str:
    """A character as it stands between spaces, where it is a sign; punctuation that may belong to a number stays."""
    kind = unicodedata.category(char)
    if kind == "Pd":
        return "-"
    if kind[0] in "LMN" or char in "_/.,:·":
        return char
    return f" {char} " if (kind[0] == "S" and char not in "`´") or char in "%‰" else " "


def normalized(text: str) -> str:
    """Words, numbers and signs in lower case, one space apart, without the punctuation of sentences."""
    text = unicodedata.normalize("NFC", text.lower())  # not NFKC, to which 10² is 102
    for pattern, sign in _WRITTEN:
        text = re.sub(pattern, sign, text)
    text = "".join(map(_apart, text))
    text = _PUNCTUATION.sub(" ", _MINUS.sub(" − ", text))
    return " ".join(text.split())


def essence(text: str) -> str:
    """What wordings of one point share: no case, no punctuation of sentences, no small words; in their order.

    What can turn a rule around stays: '<' and '>', signs, decimal points, arrows, '%', 'not', 'from' and 'to', 'with'.
    In doubt two points stay two: their samples are not pooled, which costs width of an interval and no more.
    """
    words = normalized(_NAMES.sub(r"\g<0>_", _ARTICLE.sub(" ", text)))
    return " ".join(_SMALL_WORDS.sub(" ", words).split()) or words


# ---- merging -------------------------------------------------------------------------------------------------------
def group_of(record: dict) -> str | None:
    """Names the group of stage 1 that a record was measured in; None where it does not say its step.

    All points of a group answer the same views, against the same fresh answers. What these came to is part of the name:
    runs that differ in their seed alone have writers of one name, and `question_id` may stand for a whole cluster.
    """
    if record.get("step") is None:
        return None
    measured = [[v["question_id"], v["n"], v["acc_without"]] for v in record["verified_on"] or ()]
    names = [record.get(key) for key in ("writer", "reader", "step", "exchange_id")]
    return " ".join(map(str, [*names, f"{crc32(json.dumps(measured).encode()):08x}"]))


def pool(records: list[dict]) -> dict:
    """One record of several that say the same: the first one's wording and keys, counts and evidence of all.

    A flag of any of them stays. The entries of `verified_on` say which `group` they come from and how many `copies` of
    the point were measured there: `acc_with` is the mean over these, `n` and `acc_without` are shared by them.
    """
    evidence, shared = [], {}
    for record in records:
        group = group_of(record)
        for entry in record["verified_on"] or ():
            entry = {"group": group, "copies": 1} | entry
            key = (entry["group"], entry["question_id"], entry["n"], entry["acc_without"])
            if entry["group"] is None or key not in shared:
                shared[key] = entry
                evidence.append(entry)
                continue
            known = shared[key]
            copies = known["copies"] + entry["copies"]
            told = known["copies"] * known["acc_with"] + entry["copies"] * entry["acc_with"]
            known["acc_with"], known["copies"] = told / copies, copies
    made = records[0] | {"verified_on": evidence, "count": sum(r["count"] for r in records)}
    made["leak"], made["meta_gaming"] = (any(r[flag] for r in records) for flag in ("leak", "meta_gaming"))
    made["ci95"] = interval(made) if evidence else None
    for name, own in (("advantage_same", True), ("advantage_transfer", False)):
        part = [v for v in made["verified_on"] if (v["question_id"] == made["question_id"]) == own]
        made[name] = gain({"verified_on": part}) if part else None
    return made


def merge(records: list[dict]) -> list[dict]:
    """One record for each question and essence, in order of first appearance; those that say the same are pooled.

    What was measured on the same views counts once, however often a point was written in a group or a file is read:
    without new answers no interval narrows. Nothing says what a record without a `step` shares: it adds up. `count`
    adds up, except for a record that is read twice (the same in its id and all else), so a file merged with itself
    stays as it is. A merged file knows no longer which records it was made of: with these, it counts them again.
    """
    same: dict[tuple[str, str], list[dict]] = {}
    seen = set()
    for record in records:
        whole = json.dumps(record, sort_keys=True)
        if whole in seen:
            if record.get("id") is not None:
                continue
            record = record | {"verified_on": None}  # without ids it may be another one, but its answers are the same
        seen.add(whole)
        same.setdefault((record["question_id"], essence(record["text"])), []).append(record)
    kept = []
    for part in same.values():
        kept.append(pool(part) if len(part) > 1 else part[0] | {"verified_on": list(part[0]["verified_on"] or ())})
    return kept


def best(records: list[dict]) -> dict:
    """The record with the highest lower confidence bound; one that was never measured comes last."""
    return max(records, key=lambda r: r["ci95"][0] if r["ci95"] else float("-inf"))


def point_of(question_id: str, records: list[dict]) -> str | None:
    """The best point for a question, leaks left out.

    Those of both clusters in a row for a composite; None without any.
    """
    by_cluster: dict[str, list[dict]] = {}
    for record in records:
        if record["question_id"] == question_id and record["text"] and not record["leak"]:
            by_cluster.setdefault(record["cluster"], []).append(record)
    return ". ".join(best(part)["text"] for part in by_cluster.values()) or None


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
    """[low, high] around a record's advantage, in sample: z standard errors, the error that of (k + 1) / (n + 2).

    So 4 of 4 is not certainty. Answers with and without the point count as independent: that they share their views can
    only steady the difference, and a spread over the one to four questions of a group would be noise.
    """
    with_point, without, n = accuracies(record)
    error = 0.0
    for accuracy in (with_point, without):
        smoothed = (accuracy * n + 1) / (n + 2)
        error += smoothed * (1 - smoothed) / n
    return [with_point - without - z * error**0.5, with_point - without + z * error**0.5]


def was_measured_on(question_id: str, record: dict) -> bool:
    """Whether a question is among those that a point was measured on."""
    return any(v["question_id"] == question_id for v in record["verified_on"] or ())


def lower_bound_on(question_id: str, record: dict) -> float:
    """Lower bound of a point's advantage on a question, by all that it was measured on; -1 without any.

    What was measured on the point's own question tells nothing of another. One answer to the question itself tells
    little: ranked by it alone, a library's lucky points stand before its good ones.
    """
    own = record["question_id"]
    part = [v for v in record["verified_on"] or () if own == question_id or v["question_id"] != own]
    return interval({"verified_on": part})[0] if part else -1.0
