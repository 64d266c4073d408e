"""The bank as a file: bad lines are named, published rows become records, no question stands in two splits.

And what hangs on the order of options: which may move, what an explanation says once they have moved.
"""

import json

import pytest
from conftest import config

import eval as evaluation
import grpo_introspect
from baselines import grpo, sdpo, sft
from baselines.arena import Arena, load_problems
from common import ROOT, Options, UserError, draw_some, load_config, rng
from introspection import screen
from introspection.models import load_chat
from tasks.bank import draw_in_company, in_company, load_exchanges, load_questions
from tasks.letters import without_letters
from tasks.mcq import Question, reshuffled

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
    "options equal but for case": (GOOD | {"id": "q2", "options": ["Zinc", "y", "ZINC"]}, "case and spaces"),
    "options equal but for spaces": (
        GOOD | {"id": "q2", "options": ["T - sign / SD", "y", "T-sign/SD"]},
        "same text",
    ),
    "an option that a table lacks": (GOOD | {"id": "q2", "options": ["x", "y", "nan"]}, "list of non-empty texts"),
    "options are text": (GOOD | {"id": "q2", "options": "xyz"}, "list of non-empty texts"),
    "duplicate id": (GOOD, "id 'q1' stands on line 1 already"),
    "empty question": (GOOD | {"id": "q2", "question": " "}, "'question' must be non-empty text"),
    "unknown split": (GOOD | {"id": "q2", "split": "dev"}, "'split' must be one of"),
    "half a pair": (GOOD | {"id": "q2", "question": "x\ud800"}, "half of a surrogate pair"),
    "empty variant": (GOOD | {"id": "q2", "variants": [{"question": " ", "answer": "A"}]}, "'variants' must be a list"),
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
        b"\xef\xbb\xbf"
        + json.dumps(GOOD).encode()
        + b"\r\n\r\n"
        + json.dumps(GOOD | {"id": "q2", "question": "Why?"}).encode()
        + b"\r\n"
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


def test_shipped_banks_load():
    bank = load_questions(ROOT / "data/bank.jsonl")
    assert {q.split for q in bank} == {"train", "val", "test", "test_clusters", "composite", "canary"}
    cluster = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    assert [sum(q.cluster.endswith(kind) for q in cluster) for kind in "ABCD"] == [5, 3, 3, 2]
    assert all(q.variants and q.explanation for q in cluster)


# ---- options that must not be moved --------------------------------------------------------------------------------
REFERRING = (
    "All of the above;none of these;Both A and B;both (a) and (b);A or C;neither of the above;option B;the above;C & D"
    ";B&C;A, D;b,d;A/D;A + D;(b) & (d);Only C;C only;Option (D);Options B, D;2 and 4 are correct;1, 3 & 4;II and IV;All"
    ";i and iv;ALL;All are true;Both;both.;Neither;None;None are correct;None of above;A and B but not D;Both BC;acd"
    ";B > A > D > C;All except (b);Statements 1 and 2 are wrong;Both C and D occur together;d) Fever;C;All three;1 only"
    ";the first two options"
).split(";")
NAMING = (
    "vitamin C;vitamins B and D;hepatitis B;hepatitis B and C viruses;group B;types I and III collagen;B and C fibres;4"
    ";blood groups B, AB;hellp syndrome only;all day care;above 140;both kidneys;none needed;D-dimer;C. difficile;II;AB"
    ";1/2;2-4 hours;3 or 4;factor C and factor D;an option a patient may refuse;all neonates above 2 kg;C++;C5 and C6"
    ";either parent;true"
).split(";")


@pytest.mark.parametrize("option", REFERRING)
def test_options_that_refer_to_others_stay_put(option):
    fixed = question(options=("fever", "rash", "cough", option))
    assert not fixed.movable and reshuffled(fixed, 3, rng(0)) is fixed


@pytest.mark.parametrize("option", NAMING)
def test_letters_and_numbers_that_are_names_may_move(option):
    assert question(options=("fever", "rash", "cough", option)).movable


def test_both_may_move_beside_options_that_say_what_it_is_about():
    assert question(options=("both", "anaemia only", "neither", "coeliac disease only")).movable
    assert not question(options=("both", "anaemia only", "neither", "coeliac disease")).movable
    assert not question(options=("A. anaemia", "B. gout", "C. mumps", "D. croup")).movable  # their own letters


def test_nothing_of_the_shipped_banks_is_held_fixed_or_shown_in_part():
    for name in ("data/bank.jsonl", "data/preeclampsia.jsonl"):
        questions = load_questions(name)
        assert all(twin.movable for q in questions for twin in (q, *q.variants))
        assert all(without_letters(q.explanation) == q.explanation for q in questions)


# ---- explanations that name letters --------------------------------------------------------------------------------
EXPLAINED = [  # (explanation, what of it holds whatever the order)
    ("Ans. is 'c' i.e., Zinc. Options A and D are toxic.", "Zinc."),
    ("Answer: C", None),
    ("Ans-d. Zinc heals. It is a metal.", "Zinc heals. It is a metal."),
    ("Answer- B (Zinc)Copper is a metal.", "(Zinc)Copper is a metal."),
    ("Zinc heals. So option A is wrong.", "Zinc heals."),
    ("(d) is correct. Zinc heals.", "Zinc heals."),
    ("Answer (b) is wrong.", None),
    ("The answer is a. Zinc heals.", "Zinc heals."),
    ("The answer is A Zinc oxide heals.", "Zinc oxide heals."),
    ("Zinc heals; b, c and e do not.", "Zinc heals;"),
    ("a is false\nZinc heals", "Zinc heals"),
    ("A, as zinc heals. Copper does not.", "Copper does not."),
    ("Only D heals. Choose it.", "Choose it."),
    ("The second option heals. Zinc does.", "Zinc does."),
    ("Option 3 is copper. Zinc heals.", "Zinc heals."),
    ("Ans.BZinc heals. Copper does not.", "Copper does not."),
    ("Ans. 2. Zinc heals.", "Zinc heals."),
    ("Not type A, C is wrong. Zinc heals.", "Zinc heals."),
    ("B cellulitis heals. Zinc does.", "Zinc does."),
]
KEPT = [
    "Vitamin A is stored in the liver, vitamins D, E and K too.",
    "Hepatitis B and C are viruses. Hepatitis B is not curable. E. coli is a rod.",
    "A child of 5 g. has a fever, i.e. 39 °C.",
    "B cells and D-dimers rise.",
    "The answer is a rule of thumb.",
    "Other options are surgery, e.g. a graft.",
    "Group B streptococci, see 19/e p. 3.",
]


@pytest.mark.parametrize(("explanation", "left"), EXPLAINED)
def test_sentences_that_name_an_option_go(explanation, left):
    assert without_letters(explanation) == left


@pytest.mark.parametrize("explanation", KEPT)
def test_letters_that_are_names_stay(explanation):
    assert without_letters(explanation) == explanation


def test_an_explanation_names_letters_only_in_the_order_it_was_written_for(tmp_path):
    asked = question(explanation="Ans. is b. The bone heals.")
    shown = [reshuffled(asked, place, rng(1, draw)) for place in range(4) for draw in range(12)]
    assert {q.explanation for q in shown if q.options == asked.options} == {asked.explanation}
    assert {q.explanation for q in shown if q.options != asked.options} == {"The bone heals."}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Answer: z (A)"}]
    record = {"id": "e", "question_id": "q", "turns": turns, "final_answer": "A"}
    write(tmp_path / "e.jsonl", [record, record | {"id": "f", "gold": "C"}])
    same, moved = load_exchanges(tmp_path / "e.jsonl", [asked])
    assert (same.question, moved.question.explanation) == (asked, "The bone heals.")
    assert sft.correction(reshuffled(question(explanation="Ans. b"), 0, rng(0)), "explanation") == "Answer: y (A)"


def test_explanations_that_name_letters_are_counted(tmp_path, capsys):
    told = ["Ans. is b. It heals.", "Answer: C", "It heals.", None, "Ans. a"]
    load(tmp_path, *(GOOD | {"id": str(i), "question": f"{i}?", "explanation": e} for i, e in enumerate(told)))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "3 explanations name" in said and "of 2 there is none" in said


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


@pytest.mark.parametrize(
    "changes",
    [{"opb": "Two", "opd": "two "}, {"opb": "a-b/c", "opd": "A - B/ c"}, {"opb": float("nan")}, {"opb": None}]
    + [{"opb": " "}, {"opb": "nan"}],
)
def test_rows_whose_options_cannot_be_told_apart_are_left_out(tmp_path, capsys, changes):
    path = write(tmp_path / "dev.json", [medmcqa(i, 1 + i % 4, **changes if i == 3 else {}) for i in range(8)])
    assert [q.id for q in load_questions(path)] == [f"id-{i}" for i in range(8) if i != 3]
    assert f"1 rows with equal or empty options left out, the first is {path}:4" in capsys.readouterr().err


def test_what_a_table_lacks_is_no_text(tmp_path):
    rows = [medmcqa(i, 1 + i % 4, exp=e, opa=0) for i, e in enumerate([float("nan"), "", "nan", None])]
    rows += [medmcqa(4, 1, topic_name=float("nan"))]
    questions = load_questions(write(tmp_path / "dev.json", rows))
    assert [q.explanation for q in questions] == [None] * 4 + ["Because."]
    assert questions[0].options[0] == "0" and questions[4].cluster == "Medicine"


# ---- splits --------------------------------------------------------------------------------------------------------
def test_copies_under_another_id_are_left_out_with_a_word(tmp_path, capsys):
    rows = [medmcqa(i % 60, 1 + i % 4, id=f"id-{i}", topic_name=f"T{i % 7}") for i in range(240)]
    rows[70]["question"] = rows[10]["question"].upper().replace(" ", "  ") + " :-"
    questions = load_questions(write(tmp_path / "dev.json", rows))
    assert [q.id for q in questions] == [f"id-{i}" for i in range(60)] and len({q.split for q in questions}) > 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "180 questions that stand there under another id left out, such as 'id-60'" in said
    other = [medmcqa(0, 1, id="first"), medmcqa(0, 2, id="other answer"), medmcqa(1, 4, id="filler")]
    assert len(load_questions(write(tmp_path / "dev.json", other))) == 3
    assert "another id" not in capsys.readouterr().err


def test_copies_differ_in_punctuation_alone(tmp_path):
    def kept(*texts: str) -> int:
        return len(load(tmp_path, *(GOOD | {"id": str(i), "question": text} for i, text in enumerate(texts))))

    assert kept("It is caused by", "It is caused by :-", "it is, caused by?", "It is_caused__by...") == 1
    assert kept("A pH of 7.4?", "A pH of 74?") == 2 and kept("x < 5", "x > 5", "x 5", "5 % x") == 4


def test_a_large_cluster_never_becomes_test_clusters(tmp_path):
    names = [f"T{i}" for i in range(30)]
    small = [medmcqa(i, 1 + i % 4, topic_name=names[i % 30]) for i in range(300)]
    aside = {q.cluster for q in load_questions(write(tmp_path / "a.json", small)) if q.split == "test_clusters"}
    assert 0 < len(aside) < 10
    large = sorted(aside)[0].removeprefix("Medicine: ")
    more = [medmcqa(i, 1 + i % 4, topic_name=large) for i in range(300, 340)]
    questions = load_questions(write(tmp_path / "b.json", small + more))
    splits = {q.split for q in questions if q.cluster.endswith(large)}
    assert splits == {"train", "val", "test"}
    assert {q.cluster for q in questions if q.split == "test_clusters"} == aside - {f"Medicine: {large}"}


def test_splits_from_a_column(tmp_path):
    called = ["train", "val", "valid", "validation", "dev", "test", "Test"]
    path = write(tmp_path / "all.json", [medmcqa(i, 1 + i % 4, split=name) for i, name in enumerate(called)])
    splits = [q.split for q in load_questions(path, split_by="column")]
    assert splits == ["train", "val", "val", "val", "val", "test", "test"]
    for row in (medmcqa(9, 4, split="holdout"), medmcqa(9, 4)):
        with pytest.raises(
            UserError, match=r"all\.json:2: 'split' \(shared\.split_by: column\): expected one of train"
        ):
            load_questions(write(tmp_path / "all.json", [medmcqa(0, 1, split="dev"), row]), split_by="column")


def test_splits_from_the_names_of_files(tmp_path):
    names = ["us_train", "phrases-dev", "test.4_options"]
    paths = [tmp_path / f"{name}.jsonl" for name in names]
    for k, path in enumerate(paths):
        write(path, [medmcqa(10 * k + i, 1 + i % 4) for i in range(4)])
    own = tmp_path / "contest.jsonl"  # our records keep their split, whatever the file is called
    own.write_text(json.dumps(GOOD | {"split": "canary"}) + "\n")
    together = ", ".join(map(str, [*paths, own]))
    splits = [q.split for q in load_questions(together, split_by="file")]
    assert splits == ["train"] * 4 + ["val"] * 4 + ["test"] * 4 + ["canary"]
    for name in ("contest.json", "train_and_test.json"):
        with pytest.raises(UserError, match=f"{name} .shared.split_by: file.: expected one of train"):
            load_questions(write(tmp_path / name, [medmcqa(0, 1), medmcqa(1, 4)]), split_by="file")


def test_an_id_stands_in_one_file_only(tmp_path):
    first, second = (write(tmp_path / f"{name}.json", [medmcqa(0, 1), medmcqa(1, 4)]) for name in "ab")
    with pytest.raises(UserError, match=r"b\.json:1: id 'id-0' stands in .*a\.json:1 already"):
        load_questions(f"{first},{second}")
    row = {"question": "?", "options": {"A": "x", "B": "y"}, "answer_idx": "B"}
    first, second = (write(tmp_path / f"{name}.jsonl", [row | {"question": name}]) for name in ("train", "test"))
    assert [q.id for q in load_questions(f"{first},{second}")] == ["medqa-train-1", "medqa-test-1"]


def test_every_script_splits_as_the_config_says(tmp_path):
    train = write(tmp_path / "train.json", [medmcqa(i, 1 + i % 4) for i in range(40)])
    held_out = write(tmp_path / "test.json", [medmcqa(i, 1 + i % 4) for i in range(40, 60)])
    changes = {"shared.questions": f"{train},{held_out}", "shared.split_by": "file", "eval_split": "test"}
    taught, chosen, _ = grpo_introspect.load_data(config(**changes, reveal="answer", eval_questions=99))
    assert (len(taught), len(chosen)) == (40, 20)
    shared = [f"{key}={value}" for key, value in changes.items() if key != "eval_split"]
    cfg = load_config(evaluation.Config, "eval", ROOT / "configs/bank.yaml", [*shared, "splits=test"])
    assert len(evaluation.load_data(cfg)["test"]) == 20
    cfg = load_config(grpo.Config, "grpo", ROOT / "configs/bank.yaml", shared)
    assert [p.split for p in load_problems(cfg)] == ["train"] * 40 + ["test"] * 20


def test_a_bank_that_nobody_explained_is_refused_where_explanations_are_asked_for(tmp_path, capsys):
    records = [json.loads(line) for line in (ROOT / "data/preeclampsia.jsonl").read_text().splitlines()]
    for kept, said in ((0, "has an explanation; use answer"), (1, "have no explanation")):
        path = tmp_path / f"{kept}.jsonl"
        bare = [r | {"explanation": None} for r in records]
        of_split = {r["split"]: i for i, r in enumerate(records)}  # the last of each
        for i in of_split.values() if kept else ():
            bare[i] = records[i]
        write(path, bare)
        told = [f"shared.questions={path}", "reveal=explanation"]
        scripts = {
            "grpo_introspect": lambda cfg: grpo_introspect.load_data(cfg),
            "eval": lambda cfg: evaluation.load_data(cfg),
            "sdpo": lambda cfg: Arena(cfg, Options(tmp_path / "x", dry_run=True), "sdpo"),
            "sft": lambda cfg: Arena(cfg, Options(tmp_path / "x", dry_run=True), "sft"),
        }
        modules = {"grpo_introspect": grpo_introspect, "eval": evaluation, "sdpo": sdpo, "sft": sft}
        more = {"eval": ["splits=test", "blind=false"], "sft": ["on=corrections"]}
        for name, look in scripts.items():
            changes = [*told, *more.get(name, [])]
            cfg = load_config(modules[name].Config, name, ROOT / "configs/preeclampsia.yaml", changes)
            if kept:
                look(cfg)
                assert said in capsys.readouterr().err, name
            else:
                with pytest.raises(UserError, match=said):
                    look(cfg)
    with pytest.raises(UserError, match="use on: corrections"):
        load_config(sft.Config, "sft", ROOT / "configs/bank.yaml", ["reveal=explanation"])


# ---- evaluations in company ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["data/bank.jsonl", "data/preeclampsia.jsonl"])
def test_what_published_numbers_hang_on_is_drawn_as_ever(name):
    questions, same = load_questions(name), 0
    for split in ("train", "val", "test", "test_clusters", "composite"):
        part = [q for q in questions if q.split == split]
        for most in (1, 4, 8, 12, 24, 48, 60, 96, 120, 1000):
            for seed in range(4):
                before, now = draw_some(part, most, rng(seed)), draw_in_company(part, most, rng(seed))
                if before == in_company(before):
                    same += 1
                    assert now == before
                else:
                    assert in_company(now) == now and len(in_company(before)) <= len(now) <= most
    assert same > 40
    clusters = [q for q in questions if q.split == "test_clusters"]
    for most in (60, 120) if clusters else ():  # reproduce/points.sh
        assert draw_in_company(clusters, most, rng(0)) == draw_some(clusters, most, rng(0))


def test_of_many_small_clusters_pairs_are_drawn():
    sizes = [1, 2, 3] * 100
    part = [question(id=f"{c}-{k}", cluster=str(c)) for c, size in enumerate(sizes) for k in range(size)]
    for most, clusters in ((40, 20), (41, 20), (400, 200), (480, 200), (1000, 200)):
        drawn = draw_in_company(part, most, rng(3))
        assert len(drawn) == min(most, 500) and drawn == [q for q in part if q in drawn]
        assert in_company(drawn) == drawn and len({q.cluster for q in drawn}) == clusters
    assert draw_in_company(part, 40, rng(3)) != draw_in_company(part, 40, rng(4))
    assert draw_in_company(part, 1, rng(3)) == draw_in_company(part[:1], 9, rng(3)) == []


def test_few_questions_and_a_sample_of_lengths_are_said(tmp_path, capsys):
    rows = [medmcqa(i, 1 + i % 4, topic_name=f"T{i // 2}", split="train" if i < 1100 else "dev") for i in range(1108)]
    path = write(tmp_path / "all.json", rows)
    cfg = config(**{"shared.questions": path, "shared.split_by": "column", "eval_split": "val"}, eval_questions=12)
    train, held_out, _ = grpo_introspect.load_data(cfg)
    plan = screen.plan(cfg, load_chat(cfg.model), train, held_out)
    assert "8 of 12 evaluation questions: no more of split val" in plan and "mean of 367)" in plan
    shared = [f"shared.questions={path}", "shared.split_by=column", "splits=val"]
    cfg = load_config(evaluation.Config, "eval", ROOT / "configs/bank.yaml", [*shared, "eval_questions=10"])
    assert len(evaluation.load_data(cfg)["val"]) == 8
    assert "8 of 10 evaluation questions" in capsys.readouterr().err


def test_keys_that_stand_twice_or_are_misspelt_are_one_line(tmp_path):
    line = json.loads((ROOT / "data/preeclampsia.jsonl").read_text().splitlines()[0])
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(line)[:-1] + ', "answer": "A"}\n')
    with pytest.raises(UserError, match=r"b\.jsonl:1: not JSON \(key 'answer' stands there twice\)"):
        load_questions(path)
    for wrong, right in (("explanaton", "explanation"), ("option", "options"), ("Cluster", "cluster")):
        path.write_text(json.dumps({wrong if key == right else key: value for key, value in line.items()}) + "\n")
        with pytest.raises(UserError, match=f"unknown key '{wrong}'; did you mean '{right}'"):
            load_questions(path)
    path.write_text(json.dumps(line | {"source": "mine", "explanations": 3}) + "\n")  # keys of the user's own
    assert len(load_questions(path)) == 1
