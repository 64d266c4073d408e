"""Questions, prompts, graders, library: bad lines are named, graders are exact, data stays data."""

import json
import random

import pytest

from common import ROOT, UserError, rng
from introspection import detectors, library
from introspection.library.__main__ import main as library_main
from introspection.prompts import parse_point, plain, question_turn, reflection_turn, told
from tasks.bank import load_questions
from tasks.mcq import Question, find_answer, grade, reshuffled

GOOD = {"id": "q1", "question": "What?", "options": ["x", "y", "z"], "answer": "B", "cluster": "c", "split": "train"}


def load(tmp_path, *lines):
    path = tmp_path / "bank.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return load_questions(path)


def question(**changes) -> Question:
    return Question(
        **{"id": "q", "question": "?", "options": ("x", "y", "z", "w"), "answer": 1, "cluster": "c", "split": "train"}
        | changes
    )


BAD = {
    "malformed": ('{"id": ', "bank.jsonl:2: not JSON"),
    "not an object": ("[1]", "expected an object"),
    "gold outside the options": (GOOD | {"id": "q2", "answer": "D"}, "a letter from A to C, got 'D'"),
    "gold is a number": (GOOD | {"id": "q2", "answer": 1}, "a letter from A to C"),
    "no answer": ({k: v for k, v in GOOD.items() if k != "answer"} | {"id": "q2"}, "no 'answer'"),
    "one option": (GOOD | {"id": "q2", "options": ["x"], "answer": "A"}, "expected 2 to 8 options, got 1"),
    "equal options": (GOOD | {"id": "q2", "options": ["x", "x"], "answer": "A"}, "same text"),
    "options are text": (GOOD | {"id": "q2", "options": "xyz"}, "list of non-empty texts"),
    "duplicate id": (GOOD, "id 'q1' stands on line 1 already"),
    "empty question": (GOOD | {"id": "q2", "question": " "}, "'question' must be non-empty text"),
    "unknown split": (GOOD | {"id": "q2", "split": "dev"}, "'split' must be one of"),
    "bad variant": (GOOD | {"id": "q2", "variants": [{"question": "Why?", "answer": "Z"}]}, "bank.jsonl:2, variant 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named(tmp_path, case):
    line, message = BAD[case]
    with pytest.raises(UserError) as error:
        load(tmp_path, GOOD, line)
    assert message in str(error.value) and "bank.jsonl:2" in str(error.value)


def test_empty_bank_missing_file_and_unknown_cluster(tmp_path):
    with pytest.raises(UserError, match="no questions"):
        load(tmp_path, "")
    with pytest.raises(UserError, match="no such file"):
        load_questions(tmp_path / "nowhere.jsonl")
    load(tmp_path, GOOD)
    with pytest.raises(UserError, match="there are c"):
        load_questions(tmp_path / "bank.jsonl", "heart")


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "bank.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD | {"id": "q2"}).encode() + b"\r\n"
    )
    assert [q.id for q in load_questions(path)] == ["q1", "q2"]


def test_odd_bytes_and_separators(tmp_path):
    path = tmp_path / "bank.jsonl"
    path.write_bytes(json.dumps(GOOD | {"question": "a\u2028b"}, ensure_ascii=False).encode() + b"\n")
    assert load_questions(path)[0].question == "a\u2028b"
    for line, place in (
        (b'{"id": "\xe9"}', ":1"),
        (b"[" * 100_000, ": not JSON"),
        (b"1" * 5000, ":1"),
        (b'[{"id": 1}]', ": record 1"),
    ):
        path.write_bytes(line)
        with pytest.raises(UserError, match=rf"bank\.jsonl{place}"):
            load_questions(path)


def test_twins_inherit_options(tmp_path):
    twin = load(tmp_path, GOOD | {"variants": [{"question": "Why?", "answer": "C"}]})[0].variants[0]
    assert (twin.question, twin.options, twin.letter, twin.id) == ("Why?", ("x", "y", "z"), "C", "q1~1")


GRADED = [  # (model turn, letter that counts; None: wrong whatever is right)
    ("Answer: (B)", "B"), ("so that. Answer: B", "B"), ("Answer: **B**", "B"), ("The answer is B.", "B"),
    ("ANSWER: (C)", "C"), ("Answer: A no wait. Answer: D", "D"), ("answer is (A)", "A"), ("Answer:\nB", "B"),
    ("Answer: 'B'", "B"), ("", None), ("B", None), ("(B)", None), ("Answer: not B but C", None),
    ("Answer: B or C", None), ("Answer: (A) and (B)", None), ("Answer: b", None), ("Answer: Because", None),
    ("Answer: A/B", None), ("Answer:", None), ("my answer is a mess", None),
    ("it is mild. Answer: urgent referral (B)", "B"), ("Answer: A beta blocker (C)", "C"),
    ("Answer: (A) urgent or (B) not", None), ("Answer: urgent referral (B). I hope this answer helps.", "B"),
    ("Answer: urgent (B). The other answers (C) fail", "B"), ("The answer is not (B)", None),
    ("Answer: A beta blocker", None), ("**Answer:** B", "B"), ("Answer: vitamin (C) (B)", "B"),
    ("Answer: I do not know", None), ("Answer: urgent referral", None), ("Answer: (B) urgent referral", "B"),
    ("Answer: urgent (B)\nor perhaps (C)", "B"), ("Answer: (E)", "E"), ("I say B. Answer: ", None),
    ("Answer: B, C", None), ("Answer: Beta", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), GRADED)
def test_grader(text, letter):
    found = find_answer(text)
    assert (found and found[1]) == letter
    for answer in range(4):
        assert grade(text, question(answer=answer)) == ("ABCD"[answer] == letter)


QUOTED = [  # options that hold what would otherwise hedge, deny or end the sentence
    ("E. coli", "C. difficile", "Do not intubate", "Give i.v. fluids"),
    ("x", "y", "x or y", "both (A) and (B)"),
    ("vitamin (K)", "vitamin", "A", "B, C"),
]


@pytest.mark.parametrize("options", QUOTED)
def test_an_option_that_is_quoted_whole_counts_whatever_it_says(options):
    for answer, letter in enumerate("ABCD"):
        q = question(options=options, answer=answer)
        said = f"so. Answer: {options[answer]} ({letter})"
        for text in (
            said,
            f"{said}.",
            f"{said} because of it",
            f"{said}. The others, such as ({'BADC'[answer]}), do not fit",
        ):
            assert grade(text, q) and find_answer(text, options) == (said.rindex("(") + 1, letter), text
        assert not grade(f"{said} or ({'BADC'[answer]})", q)  # still a hedge
        assert not any(grade(said, question(options=options, answer=other)) for other in range(4) if other != answer)


def test_grader_and_parser_never_raise():
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choice("Answer:( )BC*<introspection>/\n\0é𝔸 ") for _ in range(draw.randrange(60)))
        assert grade(text, question()) in (True, False)
        assert parse_point(text) is None or parse_point(text).strip()


def test_reshuffling_keeps_the_right_option_and_balances_its_letter():
    generator = rng(0)
    original = question()
    seen = set()
    for place in range(40):
        shuffled = reshuffled(original, place, generator)
        assert sorted(shuffled.options) == sorted(original.options)
        assert shuffled.options[shuffled.answer] == "y" and shuffled.answer == place % 4
        seen.add(shuffled.options)
    assert len(seen) > 12


@pytest.mark.parametrize(
    "option",
    [
        "All of the above",
        "none of these",
        "Both A and B",
        "both (A) and (B)",
        "A or C",
        "neither of the above",
        "option B",
        "the above",
    ],
)
def test_options_that_refer_to_others_stay_put(option):
    fixed = question(options=("x", "y", "z", option))
    assert not fixed.movable
    assert reshuffled(fixed, 3, rng(0)) == fixed


@pytest.mark.parametrize(
    "option", ["both", "neither", "hellp syndrome only", "vitamin A and iron", "all day care", "above 140"]
)
def test_ordinary_options_may_move(option):
    assert question(options=("x", "y", "z", option)).movable


POINTS = [
    ("<introspection>refer from 140</introspection>", "refer from 140"),
    ("so: <introspection> a\n b </introspection> end", "a b"), ("<introspection></introspection>", None),
    ("<introspection> \n </introspection>", None), ("no block", None), ("<introspection>a", None),
    ("a</introspection>", None), ("<introspection>a</introspection><introspection>b</introspection>", None),
    ("<introspection><introspection>a</introspection></introspection>", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "point"), POINTS)
def test_point_parser(text, point):
    assert parse_point(text) == point


@pytest.mark.parametrize(
    "attack", ["</introspection>", "<introspection>", "< / INTROSPECTION >", "<recall>x</recall>", "</recall"]
)
def test_data_cannot_open_or_close_our_blocks(attack):
    for turn in (
        question_turn(attack, [attack, "y"], attack),
        reflection_turn(False, "A", attack, told(attack, attack)),
    ):
        own = turn.replace("inside <introspection></introspection>", "")
        assert "<introspection" not in own.lower() and "</" not in own and "<recall" not in own and "< /" not in own
    assert plain("a < b and <b>c</b>") == "a < b and <b>c</b>"


LEAKS = [
    "the answer is urgent referral", "choose B", "the correct option is (C)", "(B)", "urgent referral",
    "Urgent referral!", "pick option D", "do urgent referral", "Answer: B", "Choose B", "Pick B.", "Option B is right",
    "B is correct", "go with B", "1. urgent referral", "the correct action is urgent referral",
    "The patient needs urgent referral.", "Always urgent referral.", "The right answer was emergency admission.",
    "answer: B", "always urgent referral", "select (A)",
]  # fmt: skip
CLEAN = [
    "urgent referral from 140/90 and emergency admission from 160/110", "urgent referral if blood pressure is high",
    "read the numbers with care", "for seizure prevention choose magnesium", "seizure prevention needs magnesium",
    "in pre-eclampsia, urgent referral from 140/90", "choose a drug by its half life",
    "vitamin A and B deficiency differ", "When pressure reaches 160/110 the right answer is emergency admission",
    "The best choice is urgent referral from 140/90", "choose hepatitis B vaccine at birth",
    "temperature above 38 (C) means sepsis", "emergency admission needs severe values",
    "look for raised alt and low platelets", "act early in pre-eclampsia",
]  # fmt: skip
OPTIONS = ("routine review", "urgent referral", "emergency admission", "magnesium")


@pytest.mark.parametrize("text", LEAKS)
def test_unconditional_answers_are_leaks(text):
    assert detectors.is_leak(text, OPTIONS)


@pytest.mark.parametrize("text", CLEAN)
def test_rules_and_vague_points_are_no_leaks(text):
    assert not detectors.is_leak(text, OPTIONS)


def test_twins_decide_where_they_were_measured():
    rule = "in pre-eclampsia, urgent referral from 140/90"
    assert detectors.is_leak(rule, OPTIONS, gain_source=0.75, gain_twin=-0.5, samples=4)
    assert not detectors.is_leak(rule, OPTIONS, gain_source=0.75, gain_twin=0.5, samples=4)
    assert not detectors.is_leak(rule, OPTIONS, gain_source=1.0, gain_twin=-1.0, samples=1)  # one answer each is noise
    assert not detectors.is_leak("act early", OPTIONS, gain_source=0.75, gain_twin=-0.75, samples=4)  # quotes nothing
    assert detectors.is_leak("the answer is (B)", OPTIONS, gain_source=0.0, gain_twin=0.0, samples=4)  # said outright


@pytest.mark.parametrize(
    "text",
    [
        "when options are rejected choose the most extreme one",
        "In a multiple-choice setting the longest option is often right",
        "in a test the strong action wins",
        "try the option that was not tried",
    ],
)
def test_meta_gaming_is_detected(text):
    assert detectors.is_meta_gaming(text)


@pytest.mark.parametrize("text", CLEAN)
def test_domain_reasoning_is_no_meta_gaming(text):
    assert not detectors.is_meta_gaming(text)


def record(text: str, n: int, acc_with: float, acc_without: float) -> dict:
    blank = dict.fromkeys(library.KEYS) | {"question_id": "q", "count": 1, "text": text}
    return blank | {"verified_on": [{"question_id": "p", "n": n, "acc_with": acc_with, "acc_without": acc_without}]}


def test_merging_pools_counts_and_samples():
    merged = library.merge(
        [record("Refer from 140!", 4, 1.0, 0.5), record("refer from 140", 12, 0.5, 0.25), record("other", 4, 0, 0)]
    )
    assert [r["count"] for r in merged] == [2, 1]
    assert library.accuracies(merged[0]) == (pytest.approx(0.625), pytest.approx(0.3125), 16)
    low, high = library.interval(merged[0])
    assert low < library.gain(merged[0]) < high
    assert (
        merged[0]["ci95"] == [low, high]
        and merged[0]["advantage_transfer"] == pytest.approx(library.gain(merged[0]))
        and merged[0]["advantage_same"] is None
    )


def test_what_was_not_measured_is_merged_too():
    unmeasured = [record("Refer from 140!", 4, 1.0, 0.5) | {"verified_on": None} for _ in range(2)]
    (merged,) = library.merge(unmeasured)
    assert merged["count"] == 2 and merged["ci95"] is None and merged["advantage_same"] is None
    assert library.accuracies(library.merge([*unmeasured, record("refer from 140", 4, 1.0, 0.5)])[0]) == (1.0, 0.5, 4)


def test_near_duplicates_are_pooled_and_swapped_roles_are_not():
    assert library.essence("In sepsis, give fluids from 120!") == library.essence("sepsis: fluids at 120")
    assert library.essence("urgent from 140, emergency from 160") != library.essence(
        "emergency from 140, urgent from 160"
    )
    assert library.essence("the is of") == "the is of"


def test_library_command_line(tmp_path, capsys, monkeypatch):
    ideal = [json.loads(line) for line in (ROOT / "data/points_ideal.jsonl").read_text().splitlines()[:3]]
    measured = ideal[0] | {
        "verified_on": [{"question_id": "x", "n": 8, "acc_with": 1.0, "acc_without": 0.25}],
        "ci95": [0.3, 1.0],
        "source": "loser",
    }
    leaking = measured | {"text": "the answer is B", "leak": True}
    path, out = tmp_path / "library.jsonl", tmp_path / "out.jsonl"
    write(path, [*ideal, measured | {"text": "better from 150"}, leaking, leaking])

    def run(*words):
        monkeypatch.setattr("sys.argv", ["library", *map(str, words)])
        library_main()
        return capsys.readouterr().out

    text = run("show", path)
    assert "preeclampsia-A: 5 points" in text and text.index("better from 150") < text.index(ideal[0]["text"])
    assert "+0.75 [+0.30, +1.00], n 8" in text and "x2" in text and "LEAK" in text and "not measured" in text
    assert "5 points" in run("merge", path, "--out", out) and len(library.load_library(out)) == 5
    assert "3 points" in run("export", path, "--out", out)
    assert library.load_library(out)[0]["text"] == "better from 150"
    for words, message in ((["merge", path], "needs --out"), (["show", tmp_path / "none"], "no such file")):
        with pytest.raises(SystemExit) as stopped:
            run(*words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_more_evidence_narrows_the_interval_and_four_of_four_is_not_certain():
    few, many = library.interval(record("a", 4, 1.0, 0.5)), library.interval(record("a", 400, 1.0, 0.5))
    assert many[1] - many[0] < few[1] - few[0] and few[0] < 0.3


def test_library_files_are_checked(tmp_path):
    path = tmp_path / "library.jsonl"
    path.write_text(json.dumps(record("a", 1, 1, 1)) + "\n" + '{"id": ')
    with pytest.raises(UserError, match=":2: not JSON"):
        library.load_library(path)
    path.write_text('{"id": 1}\n')
    with pytest.raises(UserError, match="missing text"):
        library.load_library(path)


def test_shipped_banks_load():
    bank = load_questions(ROOT / "data/bank.jsonl")
    assert {q.split for q in bank} == {"train", "val", "test", "test_clusters", "composite", "canary"}
    cluster = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    assert [sum(q.cluster.endswith(kind) for q in cluster) for kind in "ABCD"] == [5, 3, 3, 2]
    assert all(q.variants and q.explanation for q in cluster)


# ---- files as they are published -----------------------------------------------------------------------------------
def medmcqa(i: int, cop: int, **changes) -> dict:
    row = {
        "question": f"Which sign is number {i}?",
        "exp": "Because.",
        "cop": cop,
        "opa": "one",
        "opb": "two",
        "opc": "three",
        "opd": "four",
    }
    return (
        row
        | {"subject_name": "Medicine", "topic_name": f"Topic {i % 7}", "id": f"id-{i}", "choice_type": "single"}
        | changes
    )


def write(path, rows: list[dict]):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("first", [0, 1])
def test_medmcqa_loads_as_published_with_either_base(tmp_path, first):
    questions = load_questions(write(tmp_path / "dev.json", [medmcqa(i, first + i % 4) for i in range(200)]))
    assert [q.answer for q in questions] == [i % 4 for i in range(200)]
    assert questions[5].options == ("one", "two", "three", "four") and questions[5].explanation == "Because."
    assert questions[5].cluster == "Medicine: Topic 5" and questions[5].id == "id-5"
    assert {q.split for q in questions} >= {"train", "val", "test"}
    assert len({q.split == "test_clusters" for q in questions if q.cluster == "Medicine: Topic 3"}) == 1


def test_medmcqa_says_what_it_cannot_know_or_ask(tmp_path, capsys):
    for cops in ([1, 2, 3], [0, 1, 4], [-1, -1], [1, 7]):
        with pytest.raises(UserError, match="'cop' should run"):
            load_questions(write(tmp_path / "x.json", [medmcqa(i, cop) for i, cop in enumerate(cops)]))
    rows = [medmcqa(i, 1 + i % 4, opb="one" if i in (3, 9) else "two") for i in range(12)]
    assert len(load_questions(write(tmp_path / "y.json", rows))) == 10
    assert (
        "2 rows with equal or empty options left out" in capsys.readouterr().err
        and "y.json:4" not in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"z.json:2: not a MedMCQA row"):
        load_questions(write(tmp_path / "z.json", [medmcqa(0, 1), {"cop": 4}]))


def test_medqa_loads_as_published(tmp_path):
    row = {
        "question": "A 3-year-old ...?",
        "answer": "Ringer",
        "options": {"A": "Saline", "B": "Ringer", "C": "Milk", "D": "Tea"},
    }
    row |= {"meta_info": "step1", "answer_idx": "B", "metamap_phrases": ["x"]}
    (question,) = load_questions(write(tmp_path / "medqa.jsonl", [row]))
    assert (
        question.letter == "B"
        and question.options[1] == "Ringer"
        and question.cluster == "step1"
        and question.id == "medqa-1"
    )
    with pytest.raises(UserError, match=r"medqa\.jsonl:1: 'answer' must be a letter"):
        load_questions(write(tmp_path / "medqa.jsonl", [row | {"answer_idx": "E"}]))
