"""What the tables share: a condition, and the settings of eval.py that they read.

Each table is one module beside this one and offers the same functions: `conditions` (what is measured for a writer),
`measure` (one record a question), `expand` (the units that its rows are made of, differences among them), `remark`
(what else is said of it), and `primary`, the one contrast that was named beforehand. A unit is a condition as it
was measured: writer, split, the condition's label, reader, and its records.
"""

from dataclasses import dataclass
from typing import Protocol

from introspection.stats import estimate


@dataclass(frozen=True)
class Condition:
    """What is put in front of a reader.

    `label` is what tables store; code looks at `kind` and `detail`, never into the label.
    """

    kind: str
    label: str
    reader: str  # 'start', 'own' (the writer itself), or a folder
    detail: str = ""


class Settings(Protocol):
    """Settings of eval.py that the tables read; what each means stands there."""

    seed: int
    reveal: str
    introspect: str
    correction_turns: int
    own_reader: bool
    foreign: str
    blind: bool
    best_of: int
    library: str
    group_size: int
    n_verify: int
    n_fresh: int
    max_new_tokens: int
    max_point_tokens: int


@dataclass
class Cast:
    """Who plays in a condition: models as Readers, and the questions of a split.

    `records` of files by what they are for.
    """

    writer: object
    reader: object
    start: object
    questions: list
    records: dict[str, list[dict]]
    sources: dict[str, str]  # question texts by id


# ---- units and their records -------------------------------------------------------------------------------------
# A record is what was measured of a question (or a pair of questions): `question_id`, `cluster`, `with`, `without`.
def units_by_place(units: list[dict]) -> dict[tuple, list[dict]]:
    """The records of each unit by (writer, split, label, reader)."""
    return {(u["writer"], u["split"], u["condition"], u["reader"]): u["questions"] for u in units}


def gain(record: dict) -> float:
    return record["with"] - record["without"]


def by_cluster(records: list[dict], value=gain) -> dict[str, list[float]]:
    clusters: dict[str, list[float]] = {}
    for record in records:
        clusters.setdefault(record["cluster"], []).append(value(record))
    return clusters


def in_every_unit(units: list[list[dict]]) -> list[list[dict]]:
    """The records of the questions (or pairs) that every unit has: conditions may leave out different ones."""
    names = set.intersection(*({(r["question_id"], r.get("on")) for r in records} for records in units))
    return [[r for r in records if (r["question_id"], r.get("on")) in names] for records in units]


def minus(seeds: list[dict[str, list[float]]], others: list[dict[str, list[float]]]) -> list[dict[str, list[float]]]:
    """Values by cluster, seed by seed, less those of others, question by question."""
    pairs = zip(seeds, others, strict=True)
    return [
        {c: [a - b for a, b in zip(values, other[c], strict=True)] for c, values in s.items()} for s, other in pairs
    ]


def change(seeds: list[list[dict]], start: list[dict], split: str, value=gain) -> dict:
    """Trained against start, question by question."""
    *seeds, start = in_every_unit([*seeds, start])
    return estimate(minus([by_cluster(s, value) for s in seeds], [by_cluster(start, value) for _ in seeds]), split)


def difference(unit: dict, label: str, plus: list[list[dict]], taken_off: list[list[dict]]) -> dict:
    """A unit of its own for a difference of gains: `with` is what is added up, `without` what is taken off."""
    parts = in_every_unit([*plus, *taken_off])
    added, off = parts[: len(plus)], parts[len(plus) :]
    sums = [[sum(map(gain, records)) for records in zip(*group, strict=True)] for group in (added, off)]
    made = [r | {"with": a, "without": b} for r, a, b in zip(parts[0], *sums, strict=True)]
    return unit | {"condition": label, "questions": made, "generated_tokens": 0}
