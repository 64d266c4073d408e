"""What a problem of any task offers, and how files of problems are read.

A task is one file beside this one: its problem type, which owns what is asked (`turn`), a right answer in the task's
own words (`gold`), what a teacher is told (`feedback`), `grade` and its views; and the loader of its published files.
"""

import json
from pathlib import Path
from zlib import crc32

from common import UserError, check_file, parse_json
from introspection import prompts

SPLITS = ("train", "val", "test", "test_clusters", "composite", "canary")


class Problem:
    """The part that tasks share.

    Each has `id`, `split`, `turn`, `gold` (None for a problem without solution) and `grade(text)`.
    """

    gold: str | None = None

    def view(self, draw) -> "Problem":
        """The same problem as it is shown next time; a task with options puts them in a new order."""
        return self

    def correction(self, said: str) -> str:
        """What a teacher is told about a wrong answer `said`: the right one, unless the task knows better.

        Empty: nothing.
        """
        return "" if self.gold is None else prompts.GOLD.format(gold=prompts.plain(self.gold))

    def feedback(self, reveal: str, said: str = "", solution: str | None = None) -> str | None:
        """What a teacher reads after the problem: feedback on a wrong answer `said`, and a solution; None where there
        is nothing.

        reveal: nothing | answer | explanation (where the problem has one).
        """
        text = "" if reveal == "nothing" else self.correction(said)
        text += prompts.told(None, solution)
        return prompts.FEEDBACK_ELSE.format(told=text) if text else None


def read_records(path: Path, key: str) -> list[tuple[str, object]]:
    """('file:place', record) of a file with one object a line, or of one that is a JSON list; key: the setting that
    named it.

    Raises UserError for a file that is missing, or not JSON.
    """
    check_file(path, key)
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    whole = raw.lstrip().startswith(b"[")
    places = (
        [("", raw)] if whole else [(f":{n}", line) for n, line in enumerate(raw.split(b"\n"), start=1) if line.strip()]
    )
    records = []
    for place, text in places:
        try:
            records.append((f"{path}{place}", parse_json(text.decode("utf-8"))))
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise UserError(f"{path}{place}: not JSON ({error})") from error
    return [(f"{path}: record {i}", r) for i, r in enumerate(records[0][1], start=1)] if whole else records


def split_by_hash(text: str) -> str:
    """Seven tenths train, one val, two test: the split of a problem whose record names none."""
    drawn = crc32(text.encode()) % 10
    if drawn < 7:
        return "train"
    return "val" if drawn == 7 else "test"


def split_of_record(record: dict, where: str, text: str) -> str:
    """The split that a record names, else one by a hash of `text`. Raises UserError for an unknown one."""
    split = record.get("split", split_by_hash(text))
    if split not in SPLITS:
        raise UserError(f"{where}: split: expected one of {', '.join(SPLITS)}, got {split!r}")
    return split


def write_generated(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
