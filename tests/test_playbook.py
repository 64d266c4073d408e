"""The playbook of Resd: what its parsers take, and Concise by hand: both strategies, both triggers (appendix D)."""

import json

import pytest
from commands import python

from baselines.playbook import SECTIONS, Entry, Playbook, listing, load_playbook
from common import UserError, rng
from introspection import prompts


def book(*entries: tuple[str, int, int, int], updates: int = 0) -> Playbook:
    """(text, helpful, harmful, last_used) of each entry."""
    playbook = Playbook([], updates, len(entries))
    playbook.entries = [Entry(f"oth-{i:05d}", *entry) for i, entry in enumerate(entries, start=1)]
    return playbook


def texts(playbook: Playbook) -> str:
    return "".join(e.text for e in playbook.entries)


# ---- parsers ---------------------------------------------------------------------------------------------------------
def test_tags_are_lines_of_an_id_and_a_tag():
    text = (
        "[str-00001]: helpful\n- mis-00002 harmful.\nstr-00003 = neutral\noth-00004: maybe\n"
        "I think str-00005: helpful\nPH-00006: helpful\nstr-7: harmful"
    )
    assert prompts.parse_tags(text) == {"str-00001": "helpful", "mis-00002": "harmful", "str-00003": "neutral"}
    assert prompts.parse_tags("oth-00001: helpful\noth-00001: harmful\noth-00002: helpful\noth-00002: helpful") == {
        "oth-00002": "helpful"
    }
    assert prompts.parse_tags("") == {} == prompts.parse_tags("<introspection>urgent from 140</introspection>")
    assert all(
        len(prefix) == 3 and prompts.parse_tags(f"{prefix}-00001: helpful") for prefix in SECTIONS.values()
    )  # every entry can be tagged


def test_curations_are_well_closed_blocks():
    two = "<introspection>others: one\n more</introspection> and <introspection>two</introspection>"
    assert prompts.parse_entries(two) == ["others: one more", "two"]
    assert prompts.parse_entries("<introspection> </introspection>") == []  # nothing to add is a decision
    for broken in (
        "",
        "one",
        "<introspection>one",
        "<introspection><introspection>one</introspection>",
        "<introspection>one</introspection></introspection>",
    ):
        assert prompts.parse_entries(broken) is None, broken


# ---- entries ---------------------------------------------------------------------------------------------------------
def test_entries_have_sections_ids_and_counts():
    playbook = Playbook()
    first = playbook.add("Common mistakes to avoid: a threshold is reached, not passed")
    assert (first.id, first.text) == ("mis-00001", "a threshold is reached, not passed")
    assert (
        playbook.add("sepsis: urgent from 120").id == "oth-00002"
        and playbook.entries[1].text == "sepsis: urgent from 120"
    )  # no section of ours
    assert playbook.add("others: The threshold is reached, not passed!") is None and playbook.add("others: ") is None
    assert playbook.tag({"mis-00001": "helpful", "oth-00002": "neutral", "oth-00009": "harmful"}) == 1
    playbook.updates = 3
    playbook.tag({"mis-00001": "harmful"})
    assert str(playbook).splitlines()[0] == "[mis-00001] helpful=1 harmful=1 :: a threshold is reached, not passed"
    assert [e.last_used for e in playbook.entries] == [3, 0] and [e.kind for e in playbook.entries] == [
        "harmful",
        "unused",
    ]
    again = Playbook(**json.loads(json.dumps(playbook.state())))
    assert again.state() == playbook.state() and again.add("new").id == "oth-00003"
    again.entries = []
    assert again.add("other").id == "oth-00004"  # no id is given twice, whatever was dropped


# ---- Concise ---------------------------------------------------------------------------------------------------------
LIFE = (
    ("a", 2, 0, 1),
    ("b", 0, 0, 9),
    ("c", 1, 1, 10),
    ("d", 0, 0, 8),
    ("e", 3, 1, 4),
    ("f", 1, 3, 10),
    ("g", 0, 0, 10),
    ("h", 1, 0, 4),
)  # c, f are harmful


@pytest.mark.parametrize(("strategy", "left"), [("staleness", "abegh"), ("prioritized", "aeh")])
def test_the_frequency_trigger_prunes_without_a_budget(strategy, left):
    for updates, every, fires in ((10, 5, True), (10, 4, False), (10, 0, False)):
        playbook = book(*LIFE, updates=updates)
        removed = playbook.concise(strategy, every, 0, rng(0))
        assert (texts(playbook), removed) == ((left, 8 - len(left)) if fires else ("abcdefgh", 0))
    both = book(*LIFE, updates=10)
    assert both.concise(strategy, 5, 8, rng(0)) and texts(both) == left  # eight entries are not above a budget of eight
    assert book(*LIFE).concise(strategy, 4, 0, rng(0)) == 0  # nothing at the very start


def test_the_limit_trigger_enforces_the_budget():
    for most, left in (
        (7, "abegh"),
        (4, "begh"),
        (3, "bgh"),
        (1, "g"),
    ):  # last used: a 1, e 4, h 4, b 9, g 10; of equals the oldest goes first
        playbook = book(*LIFE, updates=10)
        playbook.concise("staleness", 0, most, rng(0))
        assert texts(playbook) == left
    drawn = set()
    for seed in range(40):
        playbook = book(*LIFE, updates=10)
        assert playbook.concise("prioritized", 0, 2, rng(seed)) == 6
        drawn.add(texts(playbook))
    assert drawn == {"ae", "ah", "eh"}  # helpful ones at random
    same = [book(*LIFE, updates=10) for _ in range(2)]
    for playbook in same:
        playbook.concise("prioritized", 0, 1, rng(7))
    assert texts(same[0]) == texts(same[1])


def test_a_new_entry_survives_one_more_update():
    playbook = book(updates=4)
    playbook.add("new")
    kept = []
    for playbook.updates in (4, 5, 6):
        playbook.concise("staleness", 1, 0, rng(0))
        kept.append(len(playbook.entries))
    assert kept == [1, 1, 0]


# ---- reading ---------------------------------------------------------------------------------------------------------
def test_it_prints_by_section_the_best_first(tmp_path):
    playbook = Playbook()
    for text in ("others: x", "strategies and insights: y", "others: z"):
        playbook.add(text)
    playbook.tag({"oth-00003": "helpful"})
    playbook.write(tmp_path / "playbook.jsonl")
    assert load_playbook(tmp_path / "playbook.jsonl") == playbook.entries
    strategies, others = listing(playbook.entries, 1).split("\n\n")
    assert strategies == "strategies and insights: 1 entries\n  [str-00002] helpful=0 harmful=0 :: y"
    assert others == "others: 2 entries\n  [oth-00003] helpful=1 harmful=0 :: z"
    mistyped = '{"id": "a", "text": "t", "helpful": "1", "harmful": 0, "last_used": 0}'
    for text, said in (('{"id": "oth-00001"}', "missing text"), ("nonsense", "not JSON"), (mistyped, "whole numbers")):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(UserError, match=said):
            load_playbook(tmp_path / "bad.jsonl")


def test_the_command_reads_a_playbook(tmp_path):
    book(("a", 1, 0, 0)).write(tmp_path / "playbook.jsonl")
    done = python("-m", "baselines.playbook", tmp_path / "playbook.jsonl")
    assert done.returncode == 0 and "[oth-00001] helpful=1 harmful=0 :: a" in done.stdout
    wrong = python("-m", "baselines.playbook", tmp_path / "none.jsonl")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
