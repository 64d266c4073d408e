"""Pre-training: both phases, stopped and resumed, give the same weights as an undisturbed build."""

import argparse
import hashlib

import pytest

from introspection.reader import Reader
from organism import build, puzzle_card
from organism.puzzles import WORDS, Puzzles


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def small_steps():
    """A tokenizer of few documents, and a checkpoint after every step."""
    make = build.make_tokenizer

    def make_tokenizer(corpus, words: str):
        return make(corpus, words, documents=60, vocab_size=400)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_tokenizer", make_tokenizer)
        patch.setattr(build, "SAVE_EVERY", 1)
        yield


def train(out, *stops: int) -> str:
    """Two steps of either phase, gone on with after each stop; the weights' checksum."""
    settings = {"seed": 0, "steps": 2, "late": 2, "batch": 2, "width": 64, "layers": 2, "lr": 1e-3}
    left = list(stops)

    def corpus_of(step: int) -> Puzzles:
        if step in left:
            left.remove(step)
            raise Stopped
        return Puzzles(step, set())

    for _ in range(len(stops) + 1):
        try:
            build.train(argparse.Namespace(out=out, **settings), Puzzles(0, set()), corpus_of, WORDS)
        except Stopped:
            assert (out / "build.pt").exists()
    assert not (out / "build.pt").exists()
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, checksum) of an undisturbed build."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


@pytest.mark.parametrize("stop_at", [1, 2, 3])  # in the first phase, at the border, in the second
def test_a_build_resumes_bit_identically_in_either_phase(whole, tmp_path, stop_at):
    assert train(tmp_path, stop_at) == whole[1]


def test_a_build_is_gone_on_with_under_its_own_settings(tmp_path):
    def until_one(step: int) -> Puzzles:
        if step == 1:
            raise Stopped
        return Puzzles(step, set())

    settings = argparse.Namespace(out=tmp_path, seed=0, steps=2, late=2, batch=2, width=64, layers=2, lr=1e-3)
    with pytest.raises(Stopped):
        build.train(settings, Puzzles(0, set()), until_one, WORDS)
    settings.lr = 2e-3
    with pytest.raises(SystemExit, match="was started with"):
        build.train(settings, Puzzles(0, set()), until_one, WORDS)


def test_the_card_of_the_puzzles_is_written(whole, monkeypatch):
    folder, _ = whole

    def reader(model, chat, temperature: float, longest: int, key: tuple) -> Reader:
        return Reader(model, chat, temperature, min(longest, 16), key)  # it babbles on to the last token

    monkeypatch.setattr(puzzle_card.page, "Reader", reader)
    monkeypatch.setattr("sys.argv", ["puzzle_card", "--model", str(folder), "--n", "3"])
    puzzle_card.main()
    text = (folder / "CARD.md").read_text()
    assert text.count("Countdown: ") >= 7 and text.count("function calling: ") >= 7
    assert "--seed 0 --steps 2 --late 2" in text
