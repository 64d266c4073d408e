"""The graders of Manufactoria and FiNER on labelled outputs, hostile ones among them.

Their files, feedback and the generator.
"""

import itertools
import json
import random
import re
import time

import pytest

from common import UserError
from tasks import finer, manufactoria
from tasks.finer import Finer
from tasks.manufactoria import Case, Manufactoria, fits, generate, parse, program_of, walk

# ---- programs for: accept the tapes that begin with R ('/' ends a line) ----------------------------------------------
BEGINS = Manufactoria(
    "p",
    "",
    tuple(
        Case(t, t.startswith("R")) for t in ("", "R", "B", "Y", "G", "RB", "BR", "RY", "YR", "GGR", "RRBYG", "BBBRB")
    ),
    "test",
)
BASE = "START start:/    NEXT look/PULLER_RB look:/    [R] end/END end"
RIGHT = [
    BASE, BASE + ":", BASE + " # done", BASE + "   ", "/" + BASE + "//", "# first/" + BASE, "# first/    " + BASE,
    "    " + BASE, BASE.replace("    ", "\t"), BASE.replace("    ", "        "), BASE.replace("    ", "     \t "),
    BASE.replace("/", "\r/"),
    BASE.replace("/", "//# note/  # note//"),
    BASE.replace(":/", ": # note: one/"), BASE.replace(" end/", " end # [B] end/"),
    BASE.replace("PULLER_RB look", "PULLER_RB  look"), BASE.replace("[R] end", "[R]   end"),
    BASE.replace("[R] end", "[R] end/    [B] NONE/    [EMPTY] NONE"),
    BASE.replace("[R] end", "[EMPTY] NONE/    [R] end"), BASE.replace("PULLER", "  PULLER"),
    BASE.replace("look", "look_2"), BASE.replace("look", "7"),
    BASE.replace("look", "Start"), BASE.replace("look", "schön"), BASE.replace("[R] end", "[R] end/    # [B] end"),
    "END end/PULLER_RB look:/    [R] end/START start:/    NEXT look", BASE + "/PULLER_YG spare:",
    BASE + "/PAINTER_RED spare:/    NEXT END", BASE + "/PULLER_RB NONE:/    [R] end",
    BASE.replace("[R] end", "[R] end/    [B] NONE") + "/PULLER_RB NONE:/    [EMPTY] end",
    "START start:/    NEXT a/PULLER_YG a:/    [Y] NONE/    [G] NONE/    [EMPTY] b"
    "/PULLER_RB b:/    [R] c/PAINTER_GREEN c:/    NEXT end/END end",
    BASE.replace("[R] end", "[R] end/    [EMPTY] look"),
    BASE.replace("[R] end", "[R] END") + "/PULLER_RB END:/    [R] end/    [B] end/    [EMPTY] end",
]  # fmt: skip
MALFORMED = {  # what the feedback says of it
    "needs the nodes": [
        "START start:/    NEXT start", "END end", "END end/PULLER_RB start:/    [R] end", "PULLER_RB a:/END end",
        "START start:/    NEXT end/PULLER_RB end:/    [R] start", "", "# nothing", "```/" + BASE + "/```",
    ],
    "expected a node such as": [
        "start start:/    NEXT end/END end", BASE.replace("start:", "start"), BASE.replace("look:", "look"),
        BASE.replace("look:", "look :"), BASE.replace("look:", "look::"), BASE.replace("look:", "my look:"),
        BASE.replace("look:", "look-1:"), BASE.replace("PULLER_RB", "puller_rb"),
        BASE.replace("PULLER_RB", "PULLER_RY"), BASE.replace("PULLER_RB", "PULLER"),
        BASE.replace("PULLER_RB ", "PULLER_RB"), BASE.replace("PULLER_RB look:", "PULLER_RB:"),
        BASE.replace("    ", "   "), BASE.replace("    ", ""), BASE.replace("    ", "  \t"),
        BASE.replace("look:/    ", "look: "), BASE + " # done/done", "begin/" + BASE, BASE + "/END", BASE + ";",
        "-- " + BASE, BASE.replace(":/", ":;/"), BASE.replace("look:", "look: ; note"),
        BASE.replace("[R] end", "[R] end/  # note/  [B] NONE"),
        "PAINTER_PINK a:/    NEXT end/" + BASE,
    ],
    "expected one of (NEXT)": [
        BASE.replace("NEXT look", "look"), BASE.replace("NEXT look", "next look"),
        BASE.replace("NEXT look", "NEXT: look"), BASE.replace("NEXT look", "NEXT look end"),
        BASE.replace("NEXT look", "[R] look"), BASE.replace("NEXT look", "NEXT look/    NEXT look"),
        BASE.replace("NEXT look", "NEXT"), BASE.replace("/", "/    "), "    " + BASE.replace("/", "/    "),
        BASE + "/PAINTER_RED p:/    [EMPTY] end", BASE + "/PAINTER_RED p:/    NEXT end/    NEXT end",
        BASE.replace("NEXT look", "[EMPTY] look"),
    ],
    "expected one of (R, B, EMPTY)": [
        BASE.replace("[R]", "R"), BASE.replace("[R]", "[r]"), BASE.replace("[R]", "[Y]"), BASE.replace("[R]", "[G]"),
        BASE.replace("[R]", "[RB]"), BASE.replace("[R]", "[ R ]"), BASE.replace("[R] ", "[R]"),
        BASE.replace("[R]", "[R]:"), BASE.replace("[R]", "NEXT"), BASE.replace("[R]", "EMPTY"),
        BASE.replace("[R] end", "[R] end, [B] NONE"), BASE.replace("[R] end", "[R] -> end"), BASE.replace("[R]", "R]"),
        BASE.replace("[R] end", "[R] end/    [R] end"), BASE.replace("[R] end", "[R] end/    [R] NONE"),
        BASE.replace("[R] end", "[R] end/    [EMPTY] NONE/    [EMPTY] NONE"), BASE.replace("[R] end", "[NONE] end"),
    ],
    "expected one of (Y, G, EMPTY)": [BASE + "/PULLER_YG a:/    [R] end", BASE + "/PULLER_YG a:/    [B] end"],
    "under END": [BASE + "/    NEXT look", BASE + "/    [R] end", BASE + "/\tnothing"],
    "declared already, or no name": [
        BASE + "/PULLER_RB look:/    [R] end", BASE + "/PAINTER_RED look:/    NEXT end", BASE + "/END end",
        "START start:/    NEXT end/" + BASE, BASE.replace("start:", "begin:"), BASE.replace("END end", "END stop"),
        BASE + "/END END", "START Start:/    NEXT end/" + BASE, BASE + "/PULLER_RB end:", BASE + "/PULLER_RB start:",
    ],
    "longer than 100000": [BASE + "/# " + "x" * 100_000],
    "has no route NEXT": ["START start:/END end", BASE.replace("    NEXT look/", ""), BASE + "/PAINTER_BLUE p:"],
    "which is not declared": [
        BASE.replace("NEXT look", "NEXT Look"), BASE.replace("[R] end", "[R] stop"),
        BASE.replace("[R] end", "[R] none"), BASE.replace("[R] end", "[R] End"), BASE.replace("NEXT look", "NEXT NEXT"),
        BASE + "/PULLER_YG a:/    [Y] b",
    ],
}  # fmt: skip
FAILING = {  # well-formed and wrong
    "START start:/    NEXT end/END end": "Wrong answer", "START start:/    NEXT NONE/END end": "sent to NONE",
    "START start:/    NEXT start/END end": "no end after 1000 nodes",
    "START start:/    NEXT END/END end": "no node 'END'", BASE.replace("[R] end", "[R] END"): "no node 'END'",
    BASE.replace("[R]", "[B]"): "sent to NONE", BASE.replace("[R] end", "[R] NONE"): "sent to NONE",
    BASE.replace("[R] end", "[R] end/    [EMPTY] end"): "Wrong answer",
    BASE.replace("[R] end", "[R] end/    [B] start"): "Wrong answer", BASE.replace("    [R] end/", ""): "sent to NONE",
    "START start:/    NEXT p/PAINTER_RED p:/    NEXT look/PULLER_RB look:/    [R] end/END end": "Wrong answer",
    "START start:/    NEXT p/PAINTER_BLUE p:/    NEXT p/END end": "no end after 1000 nodes",
    BASE.replace("[R] end", "[R] NONE") + "/PULLER_RB NONE:/    [EMPTY] end": "sent to NONE",
}  # fmt: skip


def turn(program: str) -> str:
    lines = program.replace("/", "\n")
    return f"Let me see.\n```manufactoria\n{lines}\n```\n"


def test_programs_are_graded_as_labelled():
    rows = [(p, True) for p in RIGHT] + [(p, False) for listed in (*MALFORMED.values(), FAILING) for p in listed]
    assert len({p for p, _ in rows}) == len(rows) >= 120
    assert [(p, manufactoria.grade(turn(p), BEGINS)) for p, _ in rows] == rows


def test_feedback_says_what_is_wrong():
    said = [(why, manufactoria.feedback(turn(p), BEGINS)) for why, listed in MALFORMED.items() for p in listed]
    assert [row for row in said if not row[1].startswith("Parse error: ") or row[0] not in row[1]] == []
    assert [(p, why) for p, why in FAILING.items() if why not in manufactoria.feedback(turn(p), BEGINS)] == []
    assert {manufactoria.feedback(turn(p), BEGINS) for p in RIGHT} == {""}
    assert "line 4:" in manufactoria.feedback(
        turn("# first//" + BASE.replace("look/", "look look/")), BEGINS
    )  # as the model counts them


BLOCK = "```manufactoria\n" + BASE.replace("/", "\n") + "\n```"
BARE, OTHER = BLOCK.replace("manufactoria", ""), BLOCK.replace("[R]", "[B]")
TURNS = [
    (BLOCK, True), (f"So:\n{BLOCK}\nThat is it.", True), (f"{OTHER}\nNo:\n{BLOCK}", True),
    (f"{BLOCK}\nNo:\n{OTHER}", False), (f"{BLOCK}{BLOCK}", True), (f"`{BLOCK}`", True),
    (f"{BLOCK} a ```manufactorial``` program", True), (BLOCK.replace("manufactoria\n", "manufactoria "), True),
    (BLOCK.replace("manufactoria\n", "manufactoria\r\n"), True),
    (f"<think>a ```manufactoria block</think>{BLOCK}", True), (BLOCK[:-1], False), (BLOCK[:-3], False),
    (f"{BLOCK} ```manufactoria", False), (f"{BLOCK}\n```manufactoria\n```", False), (BARE, True),
    (BARE.replace("```\n", "``` \t\n", 1), True), (f"```python\nx\n```\n{BARE}", True),
    (f"{BARE}\n```python\nx\n```", True), (f"{BLOCK}\nIn short:\n```\nit looks for R\n```", True),
    (f"{BARE}\n{BARE.replace('[R]', '[B]')}", False), (BARE[:-3], False), (BASE.replace("/", "\n"), False),
    (BLOCK.replace("manufactoria", "python"), False), (BLOCK.replace("manufactoria", "Manufactoria"), False),
    (BLOCK.replace("manufactoria", "manufactoria2"), False), (BLOCK.replace("`", "'"), False),
    (BLOCK.replace("`", "~"), False), ("", False), ("``````", False), ("```manufactoria```", False),
    (f"{BLOCK}\n{BLOCK[3:]}", True), (BLOCK.replace("manufactoria\n", "manufactoria\n```\n"), False),
    (f"text ``` {BARE}", False),
]  # fmt: skip


def test_the_program_is_the_last_block_of_a_turn():
    assert [(text, manufactoria.grade(text, BEGINS)) for text, _ in TURNS] == TURNS
    assert (
        "no program was found" in manufactoria.feedback("I do not know", BEGINS)
        and program_of("```\na\n``````manufactoria\nb\n```") == "b"
    )


WALKS = [  # routes after START start:, a tape, what is left of it, the nodes it visits, why it is rejected
    (
        "NEXT a/PULLER_RB a:/    [R] a/    [EMPTY] end",
        "RRYR",
        "YR",
        "start a a a end",
        "",
    ),  # another colour is not taken off
    (
        "NEXT a/PULLER_RB a:/    [R] a/    [EMPTY] end",
        "RBR",
        "R",
        "start a a NONE",
        "the tape was sent to NONE",
    ),  # B is taken off, and has no branch
    ("NEXT a/PULLER_YG a:/    [Y] a/    [G] end", "YYGR", "R", "start a a a end", ""),
    ("NEXT a/PULLER_YG a:/    [Y] a/    [G] end", "YR", "R", "start a a NONE", "the tape was sent to NONE"),  # no EMPTY
    (
        "NEXT a/PAINTER_YELLOW a:/    NEXT b/PAINTER_GREEN b:/    NEXT end",
        "RB",
        "RBYG",
        "start a b end",
        "",
    ),  # at the back
    (
        "NEXT a/PAINTER_BLUE a:/    NEXT b/PAINTER_RED b:/    NEXT c/PULLER_RB c:/    [B] end",
        "",
        "R",
        "start a b c end",
        "",
    ),  # first in, first out
    ("NEXT a/PULLER_RB a:/    [R] END", "R", "", "start a END", "there is no node 'END'"),
    ("NEXT a/PULLER_RB a:/    [R] start/    [EMPTY] end", "RR", "", "start a start a start a end", ""),
]


def test_a_tape_walks_as_described_and_a_thousand_nodes_at_most():
    for body, tape, left, path, fault in WALKS:
        assert walk(parse(f"START start:\n    {body}\nEND end".replace("/", "\n")), tape) == (left, path.split(), fault)
    for painters, ended in ((998, True), (999, False)):  # with start and end 1000 and 1001 nodes
        chain = "".join(f"PAINTER_RED n{i}:\n    NEXT n{i + 1}\n" for i in range(painters)).replace(
            f"NEXT n{painters}\n", "NEXT end\n"
        )
        left, path, fault = walk(parse(f"START start:\n    NEXT n0\n{chain}END end"), "B")
        assert (path[-1] == "end", fault == "", len(path), left) == (
            ended,
            ended,
            1000,
            "B" + "R" * (998 if ended else 999),
        )


KEEP, LOSE, NONE = "START start:/    NEXT end/END end", BASE, "START start:/    NEXT NONE/END end"
VERDICTS = [
    (Case("RB", True, "B", True), LOSE, True), (Case("RB", True, "RB", True), LOSE, False),
    (Case("RB", True, "RB", True), KEEP, True), (Case("RB", True, "", True), LOSE, False),
    (Case("RB", True, "RB", False), LOSE, True), (Case("RB", False, "RB", True), LOSE, True),
    (Case("RB", False, "B", True), LOSE, False), (Case("RB", False, "B", True), NONE, True),
    (Case("RB", True, "RB", True), NONE, False), (Case("RB", False, "RB", True), NONE, True),
    (Case("RB", False, "", False), KEEP, False), (Case("RB", True, "R*B", True), LOSE, True),
    (Case("RB", True, "R+B", True), LOSE, False), (Case("RB", True, "R+B", True), KEEP, True),
    (Case("RB", True, "R?", True), KEEP, False), (Case("RB", True, "R.", True), KEEP, True),
    (Case("RB", True, ".*", True), NONE, False), (Case("RB", False, "(Y|B)", True), LOSE, False),
    (Case("RB", True, "Y|RB", True), KEEP, True), (Case("RB", True, "(RB)", True), KEEP, True),
]  # fmt: skip


def test_verdicts_weigh_output_and_acceptance():
    assert [
        (c, p, manufactoria.grade(turn(p), Manufactoria("p", "", (c,), "test"))) for c, p, _ in VERDICTS
    ] == VERDICTS


def test_expected_outputs_match_as_re_does():
    rng, compared = random.Random(0), 0
    for _ in range(7000):
        pattern = "".join(rng.choices("RB.+*?|()", weights=[4, 4, 1, 1, 1, 1, 1, 2, 2], k=rng.randint(1, 9)))
        if re.search(r"[*+?][*+?]|^[RB]*$", pattern):  # `re` has lazy and possessive signs, here they are malformed
            continue
        try:
            known = re.compile(pattern)
        except re.error:
            with pytest.raises(ValueError):
                fits(pattern, "")
            continue
        tapes = ["".join(rng.choices("RB", k=rng.randint(0, 6))) for _ in range(6)]
        assert [fits(pattern, t) for t in tapes] == [known.fullmatch(t) is not None for t in tapes], pattern
        compared += 1
    assert compared > 1000
    for malformed in ("R+?", "R**", "((((((R))))))", "(" * 9999, ")", "R|)", "*"):
        with pytest.raises(ValueError):
            fits(malformed, "R")
    began = time.process_time()
    for pattern in ("(R+)+B", "(R|R)*B", "((((R+)+)+)+)+B", "(R?R?R?)*B", "(((.*R)*.*B)*.*R)*Y", ".*.*.*.*.*.*B"):
        assert not fits(pattern, "R" * 1500) and fits(pattern, "R" * 1499 + pattern[-1])
    assert time.process_time() - began < 10  # not a speed test: `re` takes longer than anybody waits


CHAIN = (
    "START start:\n    NEXT n0\n"
    + "".join(f"PAINTER_RED n{i}:\n    NEXT n{i + 1}\n" for i in range(2400))
    + "PULLER_RB n2400:\nEND end"
)
HOSTILE = [
    "START start:\n    NEXT a\nPAINTER_RED a:\n    NEXT a\nEND end", CHAIN, CHAIN * 3, "START start:\n" * 5000,
    "    [R] end\n" * 9000, "\n" * 10**6, "# no\n" * 10**5, "START start" + ":" * 10**5, "PULLER_RB " + "a" * 90_000,
    "PULLER_RB" + " " * 90_000 + "!", "START start:\n    NEXT " + "a" * 90_000, "START start:\n    [R]" + " " * 90_000,
    "```" * 10**5, "```manufactoria\n" * 10**5, "\x00" * 10**5, "é" * 10**6, "END end\n" + "PULLER_RB a:\n" * 10**4,
]  # fmt: skip


def test_hostile_programs_are_graded_in_bounded_time():
    began, many = (
        time.process_time(),
        Manufactoria("p", "", tuple(Case("RB" * 10, True, "(R+)+B", True) for _ in range(35)), "test"),
    )
    for text in (t for hostile in HOSTILE for t in (turn(hostile), hostile, f"```\n{hostile}\n```")):
        assert not manufactoria.grade(text, many) and 0 < len(manufactoria.feedback(text, many)) <= 2000
    assert time.process_time() - began < 60  # not a speed test


def test_feedback_shows_the_first_run_time_error_or_else_the_two_shortest_failures():
    cases = tuple(
        Case(*c) for c in [("RRRB", False), ("RBB", False), ("R", True), ("RYYYYYY", False), ("BY", True), ("B", True)]
    )
    said = manufactoria.feedback(turn(BASE), Manufactoria("p", "", cases, "test"))
    assert (
        said == "Run-time error: the tape was sent to NONE\nTape: 'BY'\nExpected: accepted\n"
        "Got: rejected, with 'Y' left\nNodes visited: 3, at last start > look > NONE"
    )
    said = manufactoria.feedback(turn(BASE), Manufactoria("p", "", cases[:4], "test"))
    assert (
        said.count("Wrong answer") == 2
        and said.index("'RBB'") < said.index("'RRRB'")
        and "RYY" not in said
        and "Run-time" not in said
        and "look > end" in said
    )
    said = manufactoria.feedback(turn(BASE), Manufactoria("p", "", (Case("RB", True, "R+", True),), "test"))
    assert "Wrong answer" in said and "Expected: accepted, with 'R+' left\nGot: accepted, with 'B' left" in said
    chain = "".join(f"PAINTER_RED {'n' * 60}{i}:/    NEXT {'n' * 60}{i + 1}/" for i in range(20))
    long = f"START start:/    NEXT {'n' * 60}0/{chain}PAINTER_RED {'n' * 60}20:/    NEXT end/END end"
    said = manufactoria.feedback(
        turn(long), Manufactoria("p", "", (Case("R" * 5000, False, "R" * 4999 + "R*", True),) * 3, "test")
    )
    assert (
        len(said) == 2000
        and said.count("Wrong answer") == 2
        and said.partition("\n\n")[0].count(" > ") == 14
        and "at last nnn" in said
    )


# ---- files and generator ---------------------------------------------------------------------------------------------
TEST = {"input": "R", "expected_output": "", "expected_accepted": True, "check_output": False, "description": ""}
RECORD = {
    "messages": [{"role": "user", "content": "Accept R."}],
    "ground_truth": [TEST],
    "dataset": "manufactoria",
    "difficulty": "easy",
    "id": "x-1",
    "problem_family": "f",
    "name": "n",
}


def test_published_files_are_read_as_they_are(tmp_path):
    lines, listed = tmp_path / "has.jsonl", tmp_path / "has.json"
    records = [
        RECORD,
        RECORD | {"ground_truth": json.dumps([TEST, {"input": "B"}]), "id": "", "solution": "END end", "split": "val"},
    ]
    lines.write_text("".join(json.dumps(r) + "\n\n" for r in records))
    listed.write_text(json.dumps(records, indent=2))
    one, two = problems = manufactoria.load(lines)
    assert (
        manufactoria.load(listed) == problems
        and (one.id, one.turn, one.gold) == ("x-1", "Accept R.", None)
        and one.split in ("train", "val", "test")
    )
    assert one.cases == (Case("R", True, "", False),) and two.cases == (
        *one.cases,
        Case("B", True, "", True),
    )  # what is absent is what DELTA's server takes
    assert (two.id, two.split, two.gold) == ("manufactoria-1", "val", "```manufactoria\nEND end\n```")


BROKEN = [
    ({"messages": []}, "messages"), ({"messages": "Accept R."}, "messages"),
    ({"messages": [{"role": "system", "content": "a"}]}, "messages"), ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": RECORD["messages"] * 2}, "messages"), ({"ground_truth": []}, "ground_truth"),
    ({"ground_truth": "[]"}, "ground_truth"), ({"ground_truth": "["}, "ground_truth"),
    ({"ground_truth": 3}, "ground_truth"), ({"ground_truth": None}, "ground_truth"),
    ({"ground_truth": {"input": "R"}}, "ground_truth"), ({"ground_truth": ["R"]}, "ground_truth"),
    ({"ground_truth": [{}]}, "ground_truth"), ({"ground_truth": [TEST | {"input": "RX"}]}, "ground_truth"),
    ({"ground_truth": [TEST | {"input": 1}]}, "ground_truth"),
    ({"ground_truth": [TEST, TEST | {"expected_accepted": 1}]}, "ground_truth"),
    ({"ground_truth": [TEST | {"check_output": "no"}]}, "ground_truth"),
    ({"ground_truth": [TEST | {"expected_output": None}]}, "ground_truth"),
    ({"ground_truth": [TEST | {"expected_output": "(R"}]}, "ground_truth.*brackets"), ({"split": "dev"}, "split"),
    ({"solution": 1}, "solution"),
]  # fmt: skip


def test_manufactoria_files_are_checked(tmp_path):
    files = [
        ("[1", "not JSON"),
        ("{", ":1: not JSON"),
        ("3", ":1: expected an object"),
        ('{"messages": 1}', ":1: expected an object"),
        ("", "no problems"),
        ("[]", "no problems"),
    ]
    files += [(json.dumps(RECORD) + "\n" + json.dumps(RECORD | changed), f":2: .*{said}") for changed, said in BROKEN]
    files += [(json.dumps([RECORD, RECORD | changed]), f": record 2: .*{said}") for changed, said in BROKEN]
    for text, said in files:
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(UserError, match=r"(?s)bad\.jsonl.*" + said):
            manufactoria.load(tmp_path / "bad.jsonl")
    with pytest.raises(UserError, match="no such file"):
        manufactoria.load(tmp_path / "none.jsonl")


def test_generated_problems_are_solved_by_their_solutions_and_repeat(tmp_path, monkeypatch):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setattr(
            "sys.argv", ["manufactoria", "--out", str(tmp_path / "runs" / name), "--count", "240", "--seed", str(seed)]
        )
        manufactoria.main()
    a, b, c = ((tmp_path / "runs" / name).read_bytes() for name in "abc")
    assert a == b != c
    records, problems = [json.loads(line) for line in a.splitlines()], manufactoria.load(tmp_path / "runs" / "a")
    assert {
        r["name"] in p.turn and p.gold.count(r["solution"]) == 1 and manufactoria.grade(p.gold, p)
        for r, p in zip(records, problems, strict=True)
    } == {True}
    assert len({(r["name"], p.turn) for r, p in zip(records, problems, strict=True)}) == 240 and {
        r["problem_family"] for r in records
    } == {
        "contains_substring",
        "contains_ordered",
        "contains_count",
    }
    assert all(
        3 <= sum(case.accepted for case in p.cases) <= len(p.cases) - 3
        and len(p.cases) == len({case.tape for case in p.cases}) <= 35
        for p in problems
    )
    assert len({re.sub(r"\b[RBYG]+\b|\d", "_", r["name"]) for r in records}) == 4 and {
        len({*"".join(c.tape for c in p.cases)}) for p in problems
    } == {2, 4}
    patterns = [
        re.search(r"\b[RBYG]+\b", r["name"]).group() * int(re.search(r"\d|$", r["name"]).group() or 1) for r in records
    ]
    split_of = dict(zip(patterns, (p.split for p in problems), strict=True))
    assert (
        [split_of[pattern] for pattern in patterns] == [p.split for p in problems]
        and set(split_of.values()) == {"train", "val", "test"}
        and len(split_of) < 240
    )
    with pytest.raises(UserError, match="fewer than 500"):
        generate(500, 1, 0)


def test_generated_tests_tell_a_rule_from_its_neighbours():
    rng = random.Random(0)
    for rule, other, pattern in (
        ("substring", "ordered", "RRB"),
        ("ordered", "substring", "RBR"),
        ("at least", "exactly", "BB"),
        ("exactly", "at least", "BB"),
    ):
        for colours in ["RB", "RBYG"] * 20:
            p = Manufactoria(
                "p", "", manufactoria.cases_of(manufactoria.tests_of(rng, rule, colours, pattern), ""), "test"
            )
            neighbours = [
                manufactoria.solution_of(*n)
                for n in ((other, colours, pattern), (rule, colours, pattern + "B"), (rule, colours, pattern[:-1]))
            ]
            assert not any(manufactoria.grade(turn(wrong), p) for wrong in (*neighbours, KEEP, NONE)), (rule, colours)
            assert pattern[:1] + pattern in {case.tape for case in p.cases}  # begun twice
    restarts = (  # RRB, but forgets RR after RRR
        "START start:/    NEXT a/PULLER_RB a:/    [R] b/    [B] a"
        "/PULLER_RB b:/    [R] c/    [B] a/PULLER_RB c:/    [R] a/    [B] end/END end"
    )
    assert not manufactoria.grade(
        turn(restarts),
        Manufactoria("p", "", manufactoria.cases_of(manufactoria.tests_of(rng, "substring", "RB", "RRB"), ""), "test"),
    )


def test_solutions_follow_their_rule_on_every_short_tape():
    languages = {
        ("substring", "RRB"): ".*RRB.*", ("substring", "BYB"): ".*BYB.*", ("substring", "R"): ".*R.*",
        ("ordered", "RBR"): ".*R.*B.*R.*", ("ordered", "GGY"): ".*G.*G.*Y.*", ("at least", "GG"): ".*G.*G.*",
        ("exactly", "YY"): "[RBG]*Y[RBG]*Y[RBG]*", ("exactly", "B"): "[RYG]*B[RYG]*",
    }  # fmt: skip
    tapes = ["".join(t) for n in range(7) for t in itertools.product("RBYG", repeat=n)]
    for (rule, pattern), language in languages.items():
        for colours in ("RBYG", "RB") if set(pattern) <= set("RB") else ("RBYG",):
            nodes = parse(manufactoria.solution_of(rule, colours, pattern))
            assert [
                t
                for t in tapes
                if set(t) <= set(colours) and (walk(nodes, t)[2] == "") != bool(re.fullmatch(language, t))
            ] == [], (rule, pattern)


# ---- FiNER -----------------------------------------------------------------------------------------------------------
TAGS = Finer("finer-1", "Which tags? Answer: ", "DebtFaceAmount, Revenues,LeaseCost , Goodwill", "test")
NUMBERS = Finer("finer-2", "How much?", "5.0,$12,-3", "test")
ANSWERS = [
    ("DebtFaceAmount, Revenues, LeaseCost, Goodwill", True), ("debtfaceamount,revenues,leasecost,goodwill", True),
    ("DEBTFACEAMOUNT ,\nRevenues,\tLeaseCost,  Goodwill\n", True),
    ("DebtFaceAmount,Revenues,LeaseCost,Goodwill,Cash", True), ("DebtFaceAmount,Revenues,LeaseCost,Goodwill,", True),
    ("DebtFaceAmount,Revenues,LeaseCost", False), ("DebtFaceAmount", False), ("", False), (",,,", False),
    ("Revenues,DebtFaceAmount,LeaseCost,Goodwill", False), (",DebtFaceAmount,Revenues,LeaseCost,Goodwill", False),
    ("DebtFaceAmount;Revenues;LeaseCost;Goodwill", False), ("DebtFaceAmount Revenues LeaseCost Goodwill", False),
    ("DebtFaceAmount,Revenues,LeaseCost,Good will", False), ("DebtFaceAmount,Revenues,LeaseCost,'Goodwill'", False),
    ("1. DebtFaceAmount,Revenues,LeaseCost,Goodwill", False), ("[DebtFaceAmount,Revenues,LeaseCost,Goodwill]", False),
    ("DebtFaceAmount,Revenues,LeaseCost,Goodwill.", False), ("DebtFaceAmount,,LeaseCost,Goodwill", False),
    ("DebtFaceAmount,Revenues,LeaseCost,us-gaap:Goodwill", False), ("'good'+'will',Revenues,LeaseCost,Goodwill", False),
    ("DebtFaceAmount,Revenues,LeaseCost,__import__('os').getcwd()", False),
    ("DebtFaceAmount,Revenues,LeaseCost,ＧＯＯＤＷＩＬＬ", False), ("9" * 10**6, False), ("a," * 10**6, False),
    ("(" * 10**6, False),
]  # fmt: skip


def test_finer_grader_on_labelled_outputs():
    rows = [(f"so <answer>{said}</answer>", right) for said, right in ANSWERS]
    rows += [
        (TAGS.target, False),
        (f"<answer>{TAGS.target}", False),
        (f"{TAGS.target}</answer>", False),
        (TAGS.gold.upper(), False),
        (f"I think {TAGS.gold} fits.", True),
        (f"<answer>Cash</answer> no: {TAGS.gold}", True),
    ]
    rows += [
        (f"{TAGS.gold} or <answer>Cash</answer>", False),
        (f"{TAGS.gold} <answer>", True),
        (f"{TAGS.gold}</answer>", True),
        (f"<answer>{TAGS.gold}", True),
        (f"{TAGS.gold}<answer></answer>", False),
    ]
    began = time.process_time()
    assert [(text, finer.grade(text, TAGS)) for text, _ in rows] == rows
    assert (
        not finer.grade("<answer>" * 10**5, TAGS)
        and not finer.grade("</answer>" * 10**5, TAGS)
        and time.process_time() - began < 10
    )
    numbers = [
        ("5,12,-3", True),
        ("5.0, $12.00, -3.0", True),
        ("$5,12,-3.", True),
        ("5,12,3", False),
        ("5,12", False),
        ("2+3,12,-3", False),
        ("5,0xC,-3", False),
        ("٥,12,-3", False),
        ("5e0,12,-3", False),
        ("5,12.000001,-3", False),
    ]
    assert [(said, finer.grade(f"<answer>{said}</answer>", NUMBERS)) for said, _ in numbers] == numbers


def test_finer_feedback_reveals_the_answer_unless_all_is_right():
    assert finer.feedback(TAGS.gold, TAGS) == "" and TAGS.turn.startswith("Which tags?\n") and "<answer>" in TAGS.turn
    assert (
        finer.feedback("<answer> Cash, Revenues, x, GOODWILL </answer>", TAGS)
        == f"2 of 4 tags are right in 'Cash, Revenues, x, GOODWILL'. The right answer is {TAGS.target}."
    )
    assert (
        finer.feedback("Cash", TAGS)
        == f"No answer stands between <answer> and </answer>. The right answer is {TAGS.target}."
    )
    assert len(finer.feedback(f"<answer>{'a' * 10**5}</answer>", TAGS)) < 700


def test_finer_files_are_read_and_checked(tmp_path):
    path, good = tmp_path / "finer.jsonl", {"context": "Which six tags?", "target": " A,B "}
    path.write_text("\n" + json.dumps(good) + "\n\n" + json.dumps(good | {"split": "val"}) + "\n")
    one, two = finer.load(path)
    assert (one.id, two.id, two.split, one.target) == ("finer-2", "finer-4", "val", "A,B") and one.split == "test"
    bad = [
        ({"context": "a"}, "'target'"),
        ({"target": "A"}, "'context'"),
        (good | {"target": ""}, "target"),
        (good | {"target": ["A"]}, "target"),
        (good | {"target": "A,,B"}, "target"),
        (good | {"context": 1}, "context"),
        (good | {"context": " "}, "context"),
        (good | {"split": "dev"}, "split"),
        ([], "object"),
    ]
    for text, said in [(json.dumps(good) + "\n" + json.dumps(record), ":2: .*" + said) for record, said in bad] + [
        ("\n", "no problems"),
        ("{", ":1: not JSON"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=r"finer\.jsonl.*" + said):
            finer.load(path)
