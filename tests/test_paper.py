"""reproduce/collapse.py, stability.py, minicluster.py, gaming.py, contributors.py: lines, loops and what pages say."""

import json
import math

import numpy as np
import pytest

from common import ROOT
from introspection import update
from reproduce import collapse, contributors, dreaming, exchanges, gaming, minicluster, runs, stability, without_masters
from reproduce.trained import slope

TABLES = (collapse, stability, minicluster, gaming, contributors, exchanges)


def asked(tmp_path, jobs: int = 1) -> runs.Asked:
    return runs.Asked(tmp_path, tmp_path, False, jobs)


# ---- lines ---------------------------------------------------------------------------------------------------------
def double(asked, run: dict) -> dict:
    if run["seed"] == 3:
        raise RuntimeError("out of luck")
    return {"twice": 2 * run["seed"]}


def test_a_run_whose_line_is_there_is_not_made_again(tmp_path):
    first = runs.make_missing(asked(tmp_path), "x", [{"seed": 1}], double)
    text = (tmp_path / "x.jsonl").read_text()
    (tmp_path / "x.jsonl").write_text(text.replace('"twice": 2', '"twice": 7'))
    lines = runs.make_missing(asked(tmp_path), "x", [{"seed": 2}, {"seed": 1}], double)
    assert first[0]["twice"] == 2 and [line["twice"] for line in lines] == [4, 7]  # in the order asked for
    assert len(lines[0]["commit"]) == 40 and lines[0]["minutes"] >= 0
    assert runs.make_missing(asked(tmp_path, 0), "x", [{"seed": 1}, {"seed": 5}], double) == lines[1:]
    whole = (tmp_path / "x.jsonl").read_text()
    (tmp_path / "x.jsonl").write_text(whole + '{"run": {"seed": 5}, "tw')  # cut off while it was written
    assert runs.make_missing(asked(tmp_path, 0), "x", [{"seed": 1}, {"seed": 5}], double) == lines[1:]


def test_a_run_that_fails_ends_the_command_and_keeps_what_was_made(tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        runs.make_missing(asked(tmp_path), "x", [{"seed": 1}, {"seed": 3}], double)
    assert [json.loads(line)["run"] for line in (tmp_path / "x.jsonl").read_text().splitlines()] == [{"seed": 1}]


def test_a_script_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"--set steps=2[^.]*\nnot today"):
        runs.start(["-c", "raise SystemExit('not today')"], "paper", tmp_path / "run", {"steps": 2})


# ---- what is said of lines -----------------------------------------------------------------------------------------
def test_slopes_are_within_each_question():
    """Questions of different worth, asked in an order that would fake a rise."""
    log = [{"q": "ab"[step > 4], "v": (0.1 if step <= 4 else 0.9) - 0.01 * step} for step in range(1, 9)]
    assert slope(log, "v", "q") == pytest.approx(-0.01)
    assert slope([*log, {"q": "a", "v": None}, {"q": None, "v": 9.0}], "v", "q") == pytest.approx(-0.01)
    assert math.isnan(slope(log[:1], "v", "q"))


def test_an_interval_over_seeds_is_students():
    e = runs.over_seeds([1.0, 2.0, 3.0])
    assert (e["mean"], e["low"]) == (2.0, pytest.approx(2 - 4.303 / 3**0.5))
    assert math.isnan(runs.over_seeds([1.0])["low"])


def test_clusters_that_a_seed_lacks_are_left_out():
    e = runs.over_clusters([{"a": [0.0, 1.0], "b": [1.0], "c": [5.0]}, {"a": [0.5], "b": [0.0]}])
    assert e["clusters"] == 2 and e["mean"] == pytest.approx(0.5) and e["by_cluster"] == {"a": [0.5, 0.5], "b": [1, 0]}
    assert runs.less([{"a": [1.0, 3.0], "b": [1.0]}], [{"a": [0.5]}]) == [{"a": [1.5]}]


def test_exam_strategies_are_counted_by_corrections():
    counts = {"a": {"0": [3, 0], "3": [1, 1]}, "b": {"0": [2, 1]}}
    assert gaming.shares(counts) == {"a": [0.25], "b": [0.5]} and gaming.shares(counts, "3") == {"a": [1.0]}


def test_losers_are_held_against_winners_of_the_same_question():
    record = {"cluster": "a", "winners same": 0.1, "losers same": 0.4, "winners transfer": 0.3, "losers transfer": 0.2}
    assert contributors.sides([record], "difference", "same") == {"a": [pytest.approx(0.3)]}
    assert contributors.sides([record], "winners", "transfer") == {"a": [0.3]}


# ---- the paper's first loop ----------------------------------------------------------------------------------------
def test_rollouts_that_keep_their_graph_say_what_the_others_say(organism):
    policy, chat = organism
    asked = [chat.first("What now?"), chat.first("Which of these findings speaks for a clot?")] * 2
    graphs: list = []
    kept = collapse.generate(policy, chat, asked, 12, (7, 1), graphs)
    assert kept == collapse.generate(policy, chat, asked, 12, (7, 1), None) and len({tuple(ids) for ids in kept}) > 1
    assert graphs[0].layers[0].keys.requires_grad  # the fault: the cache hangs on the graph


def test_what_counts_as_a_collapse():
    step, steady = {"points": 10, "parsed": 5}, [[0, 1.0], [5, 0.91]]
    assert collapse.why_collapsed(step, ["a", "b"], steady) is None
    assert collapse.why_collapsed({"points": 10, "parsed": 4}, ["a"], steady) == "parse"
    assert collapse.why_collapsed(step, ["a"] * 21, steady) == "alike"
    assert collapse.why_collapsed(step, ["a"], [*steady, [10, 0.89]]) == "canary"


def test_a_run_of_the_loop(monkeypatch):
    """All faults against all fixes: the faulty loop trains points that did not help, and is not clipped."""
    monkeypatch.setattr(collapse, "ATTEMPTS", 8)
    monkeypatch.setattr(collapse, "CANARY_QUESTIONS", 2)
    made = {arm: collapse.train(arm, 0.1, 0, 2) for arm in ("all fixes", "nothing skipped", "graph kept")}
    first = {arm: run["log"] for arm, run in made.items()}
    assert all(s["trained"] == s["positive"] for s in first["all fixes"])
    assert all(s["trained"] == s["points"] for s in first["nothing skipped"])
    # What is skipped changes no gradient, and a graph that is kept no answer.
    names = ("attempt", "points", "parsed", "positive")
    for arm in ("nothing skipped", "graph kept"):
        assert [[s[n] for n in names] for s in first[arm]] == [[s[n] for n in names] for s in first["all fixes"]]
    assert max(s["rollouts_mib"] for s in first["graph kept"]) > 4 * max(s["rollouts_mib"] for s in first["all fixes"])


def test_without_masters_the_optimiser_steps_the_weights(monkeypatch, organism):
    monkeypatch.setattr(update, "fp32_master", update.fp32_master)
    calls = []
    monkeypatch.setattr(without_masters.common, "launch", lambda *what: calls.append(what))
    without_masters.run()
    assert calls[0][2] == "grpo_introspect"
    updater = update.Updater(organism[0], optimizer="sgd", lr=0.1, temperature=1.0, max_tokens=64)
    assert all(m is p for m, p in zip(updater.masters, updater.parameters, strict=True))


# ---- committed evidence --------------------------------------------------------------------------------------------
def estimates(value, found: list) -> list:
    """Every estimate in a table's records that says what it was computed from."""
    if isinstance(value, dict):
        if value.get("by_cluster") and "low" in value:
            found.append(value)
        for part in value.values():
            estimates(part, found)
    elif isinstance(value, list):
        for part in value:
            estimates(part, found)
    return found


@pytest.mark.parametrize("name", ["stability", "gaming", "contributors"])
def test_intervals_come_from_the_values_beside_them(name):
    found = estimates(json.loads((ROOT / f"results/{name}.json").read_text()), [])
    assert found
    for e in found[:3]:
        seeds = len(next(iter(e["by_cluster"].values())))
        again = runs.over_clusters([{c: [v[s]] for c, v in e["by_cluster"].items()} for s in range(seeds)])
        assert [again[k] for k in ("mean", "low", "high")] == pytest.approx([e[k] for k in ("mean", "low", "high")])


def units(value) -> list[tuple[dict, dict]]:
    """(values by cluster, what is said of them) of every record that has both, however deep; not of pairs of rules."""
    if isinstance(value, list):
        return [pair for part in value for pair in units(part)]
    if not isinstance(value, dict):
        return []
    values, stated = value.get("by_cluster"), value.get("advantage", value)
    here = [(values, stated)] if values and "low" in stated and not any("+" in name for name in values) else []
    return here + [pair for part in value.values() for pair in units(part)]


@pytest.mark.parametrize("name", ["recall", "flagship", "handshake", "transfer", "rivals", "relation", "cycle"])
def test_rows_come_from_their_clusters(name):
    """Means exactly; intervals nearly, for the committed ones draw questions too."""
    found = units(json.loads((ROOT / f"results/{name}.json").read_text()))
    assert len(found) > 5
    for values, stated in found[:: 1 + len(found) // 20]:
        seeds = [{c: [v[s]] for c, v in values.items()} for s in range(len(next(iter(values.values()))))]
        again = runs.over_clusters(seeds)
        assert again["mean"] == pytest.approx(stated["mean"])
        wide = stated["high"] - stated["low"]
        assert [again["low"], again["high"]] == pytest.approx([stated["low"], stated["high"]], abs=0.02 + 0.1 * wide)


def test_every_row_of_dreams_comes_from_its_clusters():
    rows = json.loads((ROOT / "results/dreaming.json").read_text())
    assert [r["arm"] for r in rows] == list(dreaming.ARMS)
    for row in rows:
        for part in (part for name, part in row.items() if name.startswith(("target", "agreement"))):
            of_cluster = np.array([np.mean(seeds, axis=0) for seeds in part["by_cluster"].values()])
            again = dreaming.bootstrap_units(of_cluster, dreaming.gap_closed)
            assert again == pytest.approx(part["gap_closed"])
            assert of_cluster.mean(0).tolist() == pytest.approx([part[k] for k in ("before", "after", "with_point")])
        values = row["canary_change"]["by_cluster"]
        seeds = [{c: [v[s]] for c, v in values.items()} for s in range(row["seeds"])]
        again = runs.over_clusters(seeds)
        assert [again[k] for k in ("mean", "low", "high")] == pytest.approx(
            [row["canary_change"][k] for k in ("mean", "low", "high")], abs=2e-3
        )


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__.rpartition(".")[2])
def test_pages_are_what_their_lines_say(table, tmp_path):
    """The committed page and records, made again from the committed lines."""
    name = table.__name__.rpartition(".")[2]
    lines = [json.loads(line) for line in (ROOT / f"results/{name}.jsonl").read_text().splitlines()]
    records = table.records_of(lines)
    runs.publish(asked(tmp_path), name, lines, records, table.blocks(lines, records), table.draw)
    for kind in ("md", "json"):
        assert (tmp_path / f"{name}.{kind}").read_text() == (ROOT / f"results/{name}.{kind}").read_text()
    assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")


def test_the_collapse_contrast_pairs_rates_and_seeds():
    lines = {
        (arm, lr, seed): {"collapsed": "parse" if arm == "worse" and lr > 1 else None}
        for arm in ("all fixes", "worse")
        for lr in (0.1, 3.0)
        for seed in (0, 1)
    }
    row = collapse.fell_more(lines, "worse")
    assert row["mean"] == 0.5 and row["pairs"] == 4 and row["by_seed"] == {"0": [0.0, 1.0], "1": [0.0, 1.0]}
