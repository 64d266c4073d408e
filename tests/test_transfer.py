"""reproduce/transfer.py: pairs of questions by how near they are, and means over clusters of the point."""

import sys

import pytest

from common import ROOT

sys.path.insert(0, str(ROOT / "reproduce"))

import transfer

CLUSTERS = ("kidney-A", "sepsis-A", "heart-B")
WORTH = dict(zip(transfer.WHERE, (0.8, 0.4, 0.2, -0.1), strict=True))


def unit(writer: str, scale: float) -> dict:
    names = [(cluster, f"{cluster}-{i}") for cluster in CLUSTERS for i in range(2)]
    records = [{"question_id": a, "cluster": c, "on": b, "on_cluster": d, "without": 0.2} for c, a in names for d, b in names]
    return {"writer": writer, "questions": [r | {"with": 0.2 + scale * WORTH[transfer.place(r)]} for r in records]}


def test_the_table_has_each_relation_by_writer_and_type(tmp_path):
    units = [unit("start", 0.5), unit("runs/a/grpo_introspect/final", 1.0), unit("runs/b/grpo_introspect/final", 0.8)]
    at = {(r["writer"], r["where"], r["type"]): r for r in transfer.rows(units)}
    for where, worth in WORTH.items():
        assert at["start", where, "all"]["mean"] == pytest.approx(0.5 * worth)
        assert at["trained", where, "A"]["mean"] == pytest.approx(0.9 * worth)
    assert at["trained", transfer.WHERE[0], "B"]["clusters"] == 1 and len(at["trained", transfer.WHERE[0], "B"]["seeds"]) == 2
    assert ("start", transfer.WHERE[2], "B") not in at  # a type with a single cluster has no other cluster of it
    table = transfer.markdown(list(at.values()), {"start": (0.3, 0.01)})
    assert "+0.360 [" in table and "2 trained writers, 3 clusters" in table and "p 0.0100" in table
    transfer.picture(units, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")
