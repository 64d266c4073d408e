"""What the tables share: a condition, and the settings of eval.py that they read.

Each table is one module beside this one and offers the same functions: `conditions` (what is measured for a writer), `measure` (one
record a question), `expand` (the units that its rows are made of, differences among them), `remark` (what else is said of it),
and `PRIMARY` or `primary`, the one contrast that was named beforehand. A unit is a condition as it was measured: writer, split, the
condition's label, reader, and its records.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Condition:
    """What is put in front of a reader. `label` is what tables store; code looks at `kind` and `detail`, never into the label."""

    kind: str
    label: str
    reader: str  # 'start', 'own' (the writer itself), or a folder
    detail: str = ""


class Settings(Protocol):
    """Settings of eval.py that the tables read; what each means stands there."""

    seed: int
    reveal: str
    introspect: str
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
    """Who plays in a condition: models as Readers, and the questions of a split; `records` of files by what they are for."""

    writer: object
    reader: object
    start: object
    questions: list
    records: dict[str, list[dict]]
    sources: dict[str, str]  # question texts by id


def units_by_place(units: list[dict]) -> dict[tuple, list[dict]]:
    """The records of each unit by (writer, split, label, reader)."""
    return {(u["writer"], u["split"], u["condition"], u["reader"]): u["questions"] for u in units}
