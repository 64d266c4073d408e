"""The library of learning points: records, merging, the best point of a question.

A record (library.jsonl) has the keys of docs/reference.md, 'Records'; what was not measured is null. The file is plain
JSONL, so that points written with one model can be read, merged and used with another (`python -m
introspection.library`).
"""

import json
import re
from pathlib import Path

from common import UserError

KEYS = (
    "id", "text", "question_id", "exchange_id", "cluster", "source", "step", "writer", "reader", "verified_on",
    "advantage_same", "advantage_transfer", "ci95", "leak", "meta_gaming", "count",
)  # fmt: skip

_SMALL_WORDS = set("a an and are as at be do for from give in is it of on or that the then this to use with".split())


def normalized(text: str) -> str:
    return " ".join(re.sub(r"[^\w/]+", " ", text.lower()).split())


def load_library(path: Path, keys: tuple[str, ...] = KEYS) -> list[dict]:
    """Records of a library file, or of a playbook with its keys.

    Raises UserError with the line of a broken record, a torn last line too.
    """
    if not path.is_file():
        raise UserError(f"library: no such file '{path}' (stage 1 writes one)")
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON ({error.msg})") from error
        missing = [key for key in keys if key not in record] if isinstance(record, dict) else list(keys)
        if missing:
            raise UserError(f"{path}:{number}: missing {', '.join(missing)}")
        if not isinstance(record["text"], str):
            raise UserError(f"{path}:{number}: 'text' must be text, got {record['text']!r}")
        records.append(record)
    return records


def essence(text: str) -> str:
    """A point without case, punctuation and small words, in its order: 'urgent at 140' is not 'emergency at 140'."""
    words = normalized(text).split()
    return " ".join(word for word in words if word not in _SMALL_WORDS) or " ".join(words)


def merge(records: list[dict]) -> list[dict]:
    """One record for each question and essence, counts and samples pooled, in order of first appearance.

    The wording that is kept is the first one; a flag of any of them stays.
    """
    merged: dict[tuple[str, str], dict] = {}
    pooled = {}
    for record in records:
        key = (record["question_id"], essence(record["text"]))
        if key not in merged:
            merged[key] = record | {"verified_on": list(record["verified_on"] or ())}
            continue
        kept = pooled[key] = merged[key]
        kept["count"] += record["count"]
        kept["verified_on"] += record["verified_on"] or ()
        kept["leak"], kept["meta_gaming"] = kept["leak"] or record["leak"], kept["meta_gaming"] or record["meta_gaming"]
    for kept in pooled.values():
        kept["ci95"] = interval(kept) if kept["verified_on"] else None
        for name, own in (("advantage_same", True), ("advantage_transfer", False)):
            part = [v for v in kept["verified_on"] if (v["question_id"] == kept["question_id"]) == own]
            kept[name] = gain({"verified_on": part}) if part else None
    return list(merged.values())


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
    """[low, high] around a record's advantage.

    The error is that of (k + 1) / (n + 2), so that 4 of 4 is not certainty.
    """
    with_point, without, n = accuracies(record)
    error = 0.0
    for accuracy in (with_point, without):
        smoothed = (accuracy * n + 1) / (n + 2)
        error += smoothed * (1 - smoothed) / n
    return [with_point - without - z * error**0.5, with_point - without + z * error**0.5]
