"""Pre-training: both phases, stopped and resumed, give the same weights as an undisturbed build."""

import argparse
import hashlib

import pytest

from organism import build, puzzle_card
from organism.puzzles import WORDS, Puzzles


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_at", [3, 5, 6])  # in the first phase, at the border, in the second
def test_a_build_resumes_bit_identically_in_either_phase(tmp_path, monkeypatch, stop_at):
    make = build.make_tokenizer
    monkeypatch.setattr(
        build, "make_tokenizer", lambda corpus, words: make(corpus, words, documents=60, vocab_size=400)
    )
    monkeypatch.setattr(build, "SAVE_EVERY", 1)

    def built(folder, stops: list[int]) -> str:
        settings = argparse.Namespace(
            out=tmp_path / folder, seed=0, steps=5, late=3, batch=2, width=64, layers=2, lr=1e-3
        )

        def corpus_of(step: int) -> Puzzles:
            if step in stops:
                stops.remove(step)
                raise Stopped
            return Puzzles(step, set())

        while True:
            try:
                build.train(settings, Puzzles(0, set()), corpus_of, WORDS)
                break
            except Stopped:
                pass
        assert not (settings.out / "build.pt").exists()
        return hashlib.sha256((settings.out / "model.safetensors").read_bytes()).hexdigest()

    assert built("whole", []) == built("stopped", [stop_at])
    settings = argparse.Namespace(out=tmp_path / "other", seed=0, steps=5, late=3, batch=2, width=64, layers=2, lr=1e-3)
    with pytest.raises(Stopped):
        build.train(settings, Puzzles(0, set()), until_two, WORDS)
    settings.lr = 2e-3
    with pytest.raises(SystemExit, match="was started with"):
        build.train(settings, Puzzles(0, set()), until_two, WORDS)


def until_two(step: int) -> Puzzles:
    if step == 2:
        raise Stopped
    return Puzzles(step, set())


def test_the_card_of_the_puzzles_is_written(tmp_path, monkeypatch):
    make = build.make_tokenizer
    monkeypatch.setattr(
        build, "make_tokenizer", lambda corpus, words: make(corpus, words, documents=60, vocab_size=400)
    )
    settings = argparse.Namespace(out=tmp_path, seed=0, steps=2, late=0, batch=2, width=64, layers=2, lr=1e-3)
    build.train(settings, Puzzles(0, set()), lambda step: Puzzles(step, set()), WORDS)
    monkeypatch.setattr("sys.argv", ["puzzle_card", "--model", str(tmp_path), "--n", "3"])
    puzzle_card.main()
    text = (tmp_path / "CARD.md").read_text()
    assert (
        text.count("Countdown: ") >= 7
        and text.count("function calling: ") >= 7
        and "--seed 0 --steps 2 --late 0" in text
    )
