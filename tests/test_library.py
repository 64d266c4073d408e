"""The library: which points are one, what merging counts, intervals that hold, files and the command line."""

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from common import ROOT, UserError
from introspection import library
from introspection.library.__main__ import main as library_main
from reproduce.recall import shares


def entry(n: int, acc_with: float, acc_without: float, question: str = "p") -> dict:
    return {"question_id": question, "n": n, "acc_with": acc_with, "acc_without": acc_without}


def record(text: str, n: int, acc_with: float, acc_without: float, **changes) -> dict:
    blank = dict.fromkeys(library.KEYS) | {"question_id": "q", "cluster": "c", "count": 1, "text": text}
    return blank | {"verified_on": [entry(n, acc_with, acc_without)]} | changes


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


# ---- which points are one --------------------------------------------------------------------------------------------
ONE = [
    ("Sepsis, give fluids from 120!", "sepsis: fluids from 120"),
    ("Refer (urgently) with “red flags”.", "- refer urgently, with red flags"), ("PRE-ECLAMPSIA", "pre eclampsia"),
    ("**Stop** at 3–5 mg", "• stop at 3 - 5 mg"), ("a fall below -2.5", "A fall below −2.5"), ("x<=5", "X ≤ 5"),
    ("limit 38°C", "the limit is 38 °C."), ("T-score < -2.5", "T-score <-2.5"), ("give a bolus", "Give the bolus"),
    ("caf\u00e9", "cafe\u0301"), ("type-2 diabetes",
    "Type 2 diabetes"), ("high ALT -> deliver", "high ALT → deliver"),
    ("urgent — not today", "urgent, not today"), ("1. scan, and biopsy", "1) scan and biopsy"),
    ("- 5 mg a day", "5 mg a day"),
]  # fmt: skip
TWO = [
    ("refer if < 140", "refer if > 140"), ("refer if ≤ 140",
    "refer if ≥ 140"), ("refer if < 140", "refer if ≤ 140"),
    ("refer if < 140", "refer if 140"), ("x != y", "x = y"), ("a <- b", "a -> b"), ("a <- b", "a < b"),
    ("stop at -2.5", "stop at 2.5"), ("add 3 + 5", "add 3 - 5"), ("add 3 - 5", "add 3 5"), ("3 * 5", "3 5"),
    ("1.5 mg", "1/5 mg"), ("1.5 mg", "15 mg"), ("1.5 mg", "1 5 mg"), ("1.5 mg", "1,5 mg"), ("1,5 mg", "15 mg"),
    (".5 mg", "5 mg"), ("1:5", "1 5"), ("10² cells",
    "102 cells"), ("potassium ↑", "potassium ↓"), ("↑ dose", "dose"),
    ("a 5% loss", "a 5 loss"), ("turn 40°", "turn 40"), ("no fever", "fever"), ("don't scan", "do scan"),
    ("not before 5", "before 5"), ("HIV- patients", "HIV patients"), ("HIV+ patients", "HIV patients"),
    ("from A to B", "to A from B"), ("refer from A", "refer A"), ("with fever", "fever"),
    ("fever or rash", "fever, rash"), ("review in 2 days", "review for 2 days"),
    ("scan in two weeks", "scan for two weeks"),
    ("first A, then B", "first A and B"), ("in AS avoid nitrates", "in avoid nitrates"), ("gram (-) rods", "gram rods"),
    ("Rh -ve", "Rh ve"), ("screen for gout in lupus", "screen in gout for lupus"), ("hepatitis A and B", "hepatitis B"),
    ("hepatitis a and b", "hepatitis b"), ("hepatitis A virus", "hepatitis virus"), ("vitamin a.", "vitamin"),
    ("3 * -5", "3 - 5"),
    ("β-blocker", "blocker"), ("α", "a"), ("की", "का"), ("不服药", "服药"), ("résumé", "resume"),
    ("urgent from 140, emergency from 160", "emergency from 140, urgent from 160"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ONE)
def test_case_punctuation_and_small_words_make_no_new_point(one, other):
    assert library.essence(one) == library.essence(other) != ""


@pytest.mark.parametrize(("one", "other"), TWO)
def test_what_turns_a_rule_around_makes_another_point(one, other):
    assert library.essence(one) != library.essence(other)
    assert len(library.merge([record(one, 4, 1, 0), record(other, 4, 0, 1)])) == 2


def test_small_words_alone_are_a_point():
    assert library.essence("the is of") == "the is of"


def test_the_bundled_points_are_the_same_ones_as_in_the_published_runs():
    """Those ran with a rule that knew no signs; on the organism's points both must agree."""
    small = set("a an and are as at be do for from give in is it of on or that the then this to use with".split())
    texts = set()
    for quality in ("ideal", "wrong"):
        texts |= {r["text"] for r in library.load_library(ROOT / f"data/points_{quality}.jsonl")}
    before: dict[str, list[str]] = {}
    for text in texts:
        words = re.findall(r"[\w/]+", text.lower())
        before.setdefault(" ".join(w for w in words if w not in small), []).append(text)
    assert len(before) > 300 and len({library.essence(text) for text in texts}) == len(before)
    for same in before.values():
        assert len({library.essence(text) for text in same}) == 1, same


def test_words_of_direction_make_no_kinship():
    points = [{"cluster": "c", "text": "refer from fever to rash with cough"}]
    assert shares("a cough, fever", points, "c") and not shares("from here to there with care", points, "c")


# ---- merging ---------------------------------------------------------------------------------------------------------
def test_merging_pools_counts_and_samples():
    merged = library.merge(
        [record("Refer from 140!", 4, 1.0, 0.5), record("refer from 140", 12, 0.5, 0.25), record("other", 4, 0, 0)]
    )
    assert [r["count"] for r in merged] == [2, 1]
    assert library.accuracies(merged[0]) == (pytest.approx(0.625), pytest.approx(0.3125), 16)
    low, high = library.interval(merged[0])
    assert low < library.gain(merged[0]) < high
    assert merged[0]["ci95"] == [low, high] and merged[0]["advantage_same"] is None
    assert merged[0]["advantage_transfer"] == pytest.approx(library.gain(merged[0]))


def test_flags_stay_and_same_and_transfer_are_told_apart():
    part = [entry(4, 1.0, 0.5, "q"), entry(4, 0.25, 0.0, "p")]
    copies = [record("x", 1, 0, 0, verified_on=part), record("X", 4, 0.5, 0.5, leak=True, meta_gaming=False)]
    (merged,) = library.merge(copies)
    assert (merged["leak"], merged["meta_gaming"], merged["text"]) == (True, False, "x")
    assert (merged["advantage_same"], merged["advantage_transfer"]) == (0.5, 0.125)
    assert library.accuracies(merged)[2] == 12
    assert copies[0]["verified_on"] == part and "copies" not in part[0]  # what is merged is left as it was


def test_what_was_not_measured_is_merged_too():
    unmeasured = [record("Refer from 140!", 4, 1.0, 0.5) | {"verified_on": None} for _ in range(2)]
    (merged,) = library.merge(unmeasured)
    assert merged["count"] == 2 and merged["ci95"] is None and merged["advantage_same"] is None
    assert library.accuracies(library.merge([*unmeasured, record("refer from 140", 4, 1.0, 0.5)])[0]) == (1.0, 0.5, 4)


def written(number: int, acc_with: float, step: int = 1, acc_without: float = 0.5, **changes) -> dict:
    """A record as stage 1 writes it: two views of each of two questions."""
    verified = [entry(2, acc_with, acc_without, "p1"), entry(2, acc_with, acc_without, "p2")]
    made = record("x", 1, 0, 0, id=f"{step}-{number}", step=step, writer="m@0", reader="m@0", verified_on=verified)
    made |= changes
    return made | {"ci95": library.interval(made)}


def width(r: dict) -> float:
    return r["ci95"][1] - r["ci95"][0]


def test_the_views_of_a_group_count_once_and_other_groups_add_up():
    first, again, third = written(0, 1.0), written(1, 0.5), written(2, 0.0)
    (merged,) = library.merge([first, again, third])
    assert merged["count"] == 3 and library.accuracies(merged) == (pytest.approx(0.5), 0.5, 4)
    assert [v["copies"] for v in merged["verified_on"]] == [3, 3]
    others = [
        written(7, 1.0, step=2), written(8, 1.0, writer="other@0"), written(9, 1.0, reader="other@0"),
        written(3, 1.0, exchange_id="e1"), written(4, 1.0, acc_without=0.25),  # another exchange; another seed
    ]  # fmt: skip
    for other in others:
        (merged,) = library.merge([first, again, other])
        assert library.accuracies(merged)[2] == 8 and len(merged["verified_on"]) == 4 and merged["count"] == 3
        assert width(merged) < width(first)


def test_groups_are_told_apart_by_all_that_they_measured():
    """Points of one cluster, merged as those of one question, may share a view and its fresh answer by chance."""
    views = [[entry(1, 1.0, 0.5, "p1"), entry(1, 1.0, 0.0, other)] for other in ("p2", "p3")]
    (merged,) = library.merge([written(i, 0, verified_on=verified) for i, verified in enumerate(views)])
    assert [(v["question_id"], v["copies"]) for v in merged["verified_on"]] == [
        ("p1", 1),
        ("p2", 1),
        ("p1", 1),
        ("p3", 1),
    ]


def test_records_that_name_no_step_add_up():
    (merged,) = library.merge([record("x", 4, 1.0, 0.5), record("X", 4, 0.5, 0.5)])
    assert library.accuracies(merged) == (0.75, 0.5, 8)


@pytest.mark.parametrize("acc_with", [(1.0, 0.5, 0.0, 0.75), (0.5, 0.5, 0.5, 0.5)])
def test_merging_merged_files_says_what_merging_all_at_once_says(acc_with):
    records = [written(i, a, step=1 + i % 2) for i, a in enumerate(acc_with)]
    records += [written(9, 1.0), written(10, 1.0, step=3)]
    (whole,) = library.merge(records)
    for cut in range(1, len(records)):
        (parts,) = library.merge(library.merge(records[:cut]) + library.merge(records[cut:]))
        assert parts["count"] == whole["count"] and parts["ci95"] == pytest.approx(whole["ci95"])
        assert library.accuracies(parts) == pytest.approx(library.accuracies(whole))


def test_what_is_merged_twice_is_no_more_evidence():
    records = [written(0, 1.0), written(1, 0.5), written(2, 1.0, step=2)]
    merged = library.merge(records)
    assert library.merge(merged) == library.merge(merged + merged) == merged
    assert library.merge(records + records) == merged
    (again,) = library.merge(merged + records)  # a merged file with the file that it came from
    assert again["ci95"] == pytest.approx(merged[0]["ci95"]) and again["count"] == 6
    nameless = [record("y", 8, 1.0, 0.5), record("y", 8, 0.5, 0.5)]
    (once,), (twice,) = library.merge(nameless), library.merge(nameless + nameless)
    assert twice["ci95"] == once["ci95"] and twice["count"] == 4


def simulated(draw: np.random.Generator, steps: int, copies: int, n: int) -> list[dict]:
    """The records of a point that changes nothing, written `copies` times in a group of each step."""
    records = []
    for step in range(1, steps + 1):
        difficulty = draw.uniform(0.2, 0.8, n)
        fresh = float((draw.random(n) < difficulty).mean())
        for copy in range(copies):
            told = float((draw.random(n) < difficulty).mean())
            named = {"id": f"{step}-{copy}", "step": step, "writer": "m", "reader": "m"}
            records.append(record("x", n, told, fresh, **named))
    return records


@pytest.mark.parametrize(("steps", "copies", "n"), [(1, 8, 4), (1, 8, 8), (1, 8, 16), (4, 4, 8)])
def test_the_interval_of_a_useless_point_covers_zero(steps, copies, n):
    draw, held, summed = np.random.default_rng(0), [], []
    for _ in range(500):
        records = simulated(draw, steps, copies, n)
        (merged,) = library.merge(records)
        low, high = merged["ci95"]
        held.append(low <= 0 <= high)
        every = library.interval({"verified_on": [v for r in records for v in r["verified_on"]]})
        summed.append(every[0] <= 0 <= every[1])
    assert np.mean(held) >= 0.93
    assert np.mean(summed) < 0.93  # where every copy brings its n, and the fresh answers as often


def test_more_evidence_narrows_the_interval_and_four_of_four_is_not_certain():
    few, many = library.interval(record("a", 4, 1.0, 0.5)), library.interval(record("a", 400, 1.0, 0.5))
    assert many[1] - many[0] < few[1] - few[0] and few[0] < 0.3


# ---- files -----------------------------------------------------------------------------------------------------------
def test_lines_end_in_line_feeds_alone(tmp_path):
    texts = ["a\u2028b", "c\u0085d", "e\x0bf", "é"]
    lines = [json.dumps(record(t, 4, 1, 0), ensure_ascii=False).encode() for t in texts]
    path = tmp_path / "library.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n  \n".join(lines) + b"\n\n")
    assert [r["text"] for r in library.load_library(path)] == texts


GOOD = record("x", 4, 1.0, 0.5, id="1-0", ci95=[0.1, 0.9], leak=False, meta_gaming=False)
BAD = {
    "torn": (b'{"id": ', "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "latin-1": (json.dumps(GOOD | {"text": "é"}, ensure_ascii=False).encode("latin-1"), "not UTF-8"),
    "a list": (b"[1]", "expected an object"),
    "keys": (b'{"id": 1}', "missing text"),
    "text is null": (GOOD | {"text": None}, "'text': expected text, got None"),
    "half a pair": (GOOD | {"text": "x\ud800"}, "half of a surrogate pair"),
    "cluster": (GOOD | {"cluster": None}, "'cluster': expected text, got None"),
    "question": (GOOD | {"question_id": 7}, "'question_id': expected text, got 7"),
    "source": (GOOD | {"source": 1}, "'source': expected text or null"),
    "leak": (GOOD | {"leak": "false"}, "'leak': expected true, false or null"),
    "count is null": (GOOD | {"count": None}, "'count': expected a whole number of at least 1, got None"),
    "count is true": (GOOD | {"count": True}, "'count': expected a whole number"),
    "count is huge": (GOOD | {"count": 10**400}, "'count': expected a whole number"),
    "ci95 is a number": (GOOD | {"ci95": 0.5}, "'ci95': expected two numbers"),
    "ci95 is one": (GOOD | {"ci95": [0.5]}, "'ci95': expected two numbers"),
    "ci95 is none": (GOOD | {"ci95": [float("nan"), 1.0]}, "'ci95': expected two numbers"),
    "ci95 turned": (GOOD | {"ci95": [0.9, 0.1]}, "'ci95': expected two numbers, the lower one first"),
    "ci95 of nothing": (GOOD | {"verified_on": []}, "'ci95' without 'verified_on'"),
    "verified on text": (GOOD | {"verified_on": "p"}, "'verified_on': expected a list or null"),
    "an entry is text": (GOOD | {"verified_on": ["p"]}, "'verified_on', entry 1: expected an object"),
    "no n": (GOOD | {"verified_on": [entry(4, 1, 0), {"question_id": "p"}]}, "'verified_on', entry 2: missing n"),
    "n of 0": (GOOD | {"verified_on": [entry(0, 1, 0)]}, "entry 1: 'n': expected a whole number of at least 1, got 0"),
    "above 1": (GOOD | {"verified_on": [entry(4, 1.5, 0)]}, "'acc_with': expected a number from 0 to 1, got 1.5"),
    "not finite": (GOOD | {"verified_on": [entry(4, 1, float("nan"))]}, "'acc_without': expected a number from 0 to 1"),
    "copies": (GOOD | {"verified_on": [entry(4, 1, 0) | {"copies": 0}]}, "'copies': expected a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named(tmp_path, case):
    line, message = BAD[case]
    path = tmp_path / "library.jsonl"
    path.write_bytes(
        json.dumps(GOOD).encode() + b"\n\n" + (line if isinstance(line, bytes) else json.dumps(line).encode())
    )
    with pytest.raises(UserError) as error:
        library.load_library(path)
    assert str(error.value).startswith(f"{path}:3: ") and message in str(error.value)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300 + len(str(path))


def test_what_merging_writes_is_read_back(tmp_path):
    unmeasured = record("y\u2028z", 4, 1, 0, verified_on=None)
    merged = library.merge([written(0, 1.0), written(1, 0.5), unmeasured, record("z", 4, 1, 0), record("z", 4, 0, 0)])
    assert library.load_library(write(tmp_path / "merged.jsonl", merged)) == merged and len(merged) == 3


# ---- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def run(capsys, monkeypatch):
    """What `python -m introspection.library` prints; its exit status where that is not 0."""

    def command(*words) -> str | int:
        monkeypatch.setattr("sys.argv", ["library", *map(str, words)])
        try:
            library_main()
        except SystemExit as stopped:
            return stopped.code
        return capsys.readouterr().out

    return command


def ideal_points(n: int) -> list[dict]:
    return library.load_library(ROOT / "data/points_ideal.jsonl")[:n]


def test_library_command_line(tmp_path, run, capsys):
    ideal = ideal_points(3)
    measured = ideal[0] | {"verified_on": [entry(8, 1.0, 0.25)], "ci95": [0.3, 1.0], "source": "loser"}
    leaking = measured | {"text": "the answer is B", "leak": True}
    path, out = tmp_path / "library.jsonl", tmp_path / "out.jsonl"
    write(path, [*ideal, measured | {"text": "better\u2028from 150"}, leaking, leaking | {"id": "another"}])
    text = run("show", path)
    assert "preeclampsia-A: 5 points" in text and text.index("better from 150") < text.index(ideal[0]["text"])
    assert "+0.75 [+0.30, +1.00], n 8" in text and "x2" in text and "LEAK" in text and "not measured" in text
    assert "5 points" in run("merge", path, "--out", out) and len(library.load_library(out)) == 5
    assert "3 points" in run("export", path, "--out", out)
    assert library.load_library(out)[0]["text"] == "better\u2028from 150" and len(out.read_text().splitlines()) == 3
    for words, message in (
        (["merge", path], "needs --out"),
        (["show", tmp_path / "none"], "no such file"),
        (["show", tmp_path], "is a folder"),
    ):
        assert run(*words) == 2 and message in capsys.readouterr().err


def test_a_text_of_blanks_is_no_point(tmp_path, run):
    path = write(tmp_path / "library.jsonl", [record("refer if > 140", 8, 1.0, 0.5), record(" \t\n", 8, 1.0, 0.0)])
    assert [r["text"] for r in library.load_library(path)] == ["refer if > 140", ""]
    assert library.point_of("q", library.load_library(path)) == "refer if > 140"


def test_opposite_rules_are_exported_by_their_own_evidence(tmp_path, run):
    rules = [record("refer if < 140", 8, 0.0, 0.5), record("refer if > 140", 8, 1.0, 0.5)]
    path = write(tmp_path / "library.jsonl", [r | {"ci95": library.interval(r)} for r in rules])
    assert "1 points" in run("export", path, "--out", path)  # onto its own input
    (kept,) = library.load_library(path)
    assert kept["text"] == "refer if > 140" and kept["count"] == 1


def test_a_library_is_written_whole_or_not_at_all(tmp_path, run, capsys, monkeypatch):
    path, out = write(tmp_path / "library.jsonl", ideal_points(3)), tmp_path / "out.jsonl"
    for place, message in ((tmp_path, "not a file"), (tmp_path / "none/out.jsonl", "No such file or directory")):
        assert run("merge", path, "--out", place) == 2
        error = capsys.readouterr().err
        assert error == f"library: --out {place}: {message}\n"
    out.write_text("as it was")
    whole = Path.write_text

    def full_disk(path: Path, text: str) -> None:
        whole(path, text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    assert run("merge", path, "--out", out) == 2 and "No space left" in capsys.readouterr().err
    assert out.read_text() == "as it was"


def test_broken_files_are_one_line_and_exit_2(tmp_path, run, capsys):
    path = write(tmp_path / "library.jsonl", [GOOD | {"cluster": None}])
    assert run("show", path) == 2
    assert capsys.readouterr().err == f"library: {path}:1: 'cluster': expected text, got None\n"


def test_more_than_two_wordings_stay_apart_in_pairs():
    """Whatever decides is decided for each pair alike: essences are compared as texts."""
    rules = ["pH < 7.2", "pH > 7.2", "pH <= 7.2", "pH >= 7.2", "pH = 7.2", "pH 7.2", "pH 72", "pH -7.2", "not pH 7.2"]
    assert all(library.essence(a) != library.essence(b) for a, b in combinations(rules, 2))
