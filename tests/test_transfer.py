"""reproduce/transfer.py: pairs of questions by how near they are, and means over clusters of the point."""

import numpy as np
import pytest

from reproduce import transfer

CLUSTERS = ("kidney-A", "sepsis-A", "heart-B")
WORTH = dict(zip(transfer.WHERE, (0.8, 0.4, 0.2, -0.1), strict=True))


def unit(writer: str, scale: float) -> dict:
    names = [(cluster, f"{cluster}-{i}") for cluster in CLUSTERS for i in range(2)]
    records = [
        {"question_id": a, "cluster": c, "on": b, "on_cluster": d, "without": 0.2} for c, a in names for d, b in names
    ]
    return {"writer": writer, "questions": [r | {"with": 0.2 + scale * WORTH[transfer.place(r)]} for r in records]}


def test_the_table_has_each_relation_by_writer_and_type(tmp_path):
    units = [unit("start", 0.5), unit("runs/a/grpo_introspect/final", 1.0), unit("runs/b/grpo_introspect/final", 0.8)]
    at = {(r["writer"], r["where"], r["type"]): r for r in transfer.rows(units)}
    for where, worth in WORTH.items():
        assert at["start", where, "all"]["mean"] == pytest.approx(0.5 * worth)
        assert at["trained", where, "A"]["mean"] == pytest.approx(0.9 * worth)
    assert (
        at["trained", transfer.WHERE[0], "B"]["clusters"] == 1
        and len(at["trained", transfer.WHERE[0], "B"]["seeds"]) == 2
    )
    assert ("start", transfer.WHERE[2], "B") not in at  # a type with a single cluster has no other cluster of it
    table = transfer.markdown(list(at.values()), {"start": (0.3, 0.01)}, [])
    assert "+0.360 [" in table and "2 trained writers, 3 clusters" in table and "p 0.0100" in table
    transfer.picture(units, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")


def test_the_adjusted_rand_index_equals_its_published_example():
    """Two partitions of six: of 15 pairs two are together in both, chance expects 6 x 3 / 15.

    Labels' names do not matter.
    """
    a, b = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 2])
    assert transfer.rand_index(a, b) == pytest.approx((2 - 6 * 3 / 15) / ((6 + 3) / 2 - 6 * 3 / 15))
    assert transfer.rand_index(b, (b + 1) % 3) == 1


def test_questions_are_grouped_by_where_their_points_help():
    trained, start = unit("runs/a/grpo_introspect/final", 1.0), unit("start", 0.0)
    questions = {r["question_id"]: f"{k} what is next" for k, r in enumerate(trained["questions"])}
    rows = transfer.structure([start, trained], questions, permutations=200)
    assert [row["by"] for row in rows] == [
        "where points of writer start help",
        "where points of writer a help",
        "words of the questions",
    ]
    assert rows[1]["clusters"]["rand_index"] == rows[1]["types"]["rand_index"] == 1
    assert (
        rows[1]["clusters"]["p"] < 0.2 and rows[0]["clusters"]["rand_index"] < 0.5
    )  # points that never help say nothing
