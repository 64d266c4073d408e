"""Noise keys: the integers that published numbers hang on, and which streams coincide because short keys are padded."""

import itertools

import numpy as np

from common import (
    DreamPhase,
    ReaderNumber,
    RecallPhase,
    RehearsalPhase,
    ReproducePhase,
    RivalPhase,
    RolloutPhase,
    TablePhase,
    rng,
    walk,
)

SEED, SOME = 7, range(3)  # epochs, places, steps


def numbers(table) -> dict[str, int]:
    return {name: value for name, value in vars(table).items() if name.isupper()}


def test_the_integers_are_those_of_every_published_number():
    assert list(numbers(RolloutPhase).values()) == [0, 1, 2, 3, 4, 5, 6]
    assert numbers(RecallPhase) == {
        "BASE": 20,
        "CANDIDATES": 21,
        "ORDER": 22,
        "EVALUATE": 23,
        "AGAIN": 31,
        "FIRING": 29,
    }
    assert list(numbers(DreamPhase).values()) == [30, 31, 32, 33, 34, 29]
    assert numbers(RehearsalPhase) == {"MAKE_UP": 28, "REPLY": 38}
    assert list(numbers(TablePhase).values()) == [40, 41, 42, 43, 44, 45, 50, 60]
    assert list(numbers(RivalPhase).values()) == [
        50,
        51,
        60,
        61,
        62,
        63,
        64,
        65,
        66,
        66,
        75,
        76,
        67,
        68,
        69,
        70,
        71,
        72,
        73,
        74,
    ]
    assert list(numbers(ReproducePhase).values()) == [90, 91, 92, 93, 94]
    assert list(numbers(ReaderNumber).values()) == [0, 1, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 8, 10, 11]


def test_short_keys_are_padded_and_long_ones_are_not():
    assert rng(7, 50, 1).random() == rng(7, 50, 1, 0).random() and rng(7).random() == rng(7, 0, 0, 0).random()
    assert (
        rng(7, 50, 1, 0).random() != rng(7, 50, 1, 0, 0).random()
    )  # so a reader's keys, of five words and more, never coincide


# Keys of at most four words, by who draws with them. A Reader's have at least five: seed, step, reader, phase, number.
SHORT = {
    "questions of an evaluation": [(SEED,)],
    "stage 1, order of an epoch": [(SEED, epoch) for epoch in SOME],
    "stage 2, order of an epoch": [(SEED, RecallPhase.ORDER, epoch) for epoch in range(1, 4)],
    "stage 2, who is held out": [(SEED, RecallPhase.ORDER, 0, i) for i in SOME],
    "stage 3, questions of an evaluation": [(SEED, 1)],
    "stage 3, order of an epoch": [(SEED, DreamPhase.ORDER, epoch) for epoch in SOME],
    "stages 2 and 3, order of made-up conversations": [(SEED, RehearsalPhase.MAKE_UP, epoch) for epoch in SOME],
    "eval, points of another cluster": [(SEED, TablePhase.ELSEWHERE, i) for i in SOME],
    "rivals, order of an epoch": [(SEED, RivalPhase.ORDER, epoch) for epoch in SOME],
    "rivals, options of a problem": [(SEED, RivalPhase.ORDER, 1, place) for place in SOME],
    "reflect_retry, order of an epoch": [(SEED, RivalPhase.COLLECT, epoch) for epoch in SOME],
    "sft, order of an epoch": [(SEED, RivalPhase.SFT_SHUFFLE, epoch) for epoch in SOME],
    "sft, options of a problem": [(SEED, RivalPhase.SFT_VIEW, place) for place in SOME],
    "ssd, answers": [(SEED, RivalPhase.SSD_GENERATE, i) for i in SOME],
    "ssd, options of a problem": [(SEED, RivalPhase.SSD_VIEW, i, k) for i in SOME for k in SOME],
    "ssd, order of an epoch": [(SEED, RivalPhase.SSD_SHUFFLE, epoch) for epoch in SOME],
    "resd, what Concise drops": [(SEED, RivalPhase.CONCISE, step, k) for step in range(1, 4) for k in range(2)],
}
# Harmless: an order of questions and a choice of others, or of one problem's options, have nothing to do with each
# other.
COINCIDE = {
    ("questions of an evaluation", "stage 1, order of an epoch"),
    ("stage 1, order of an epoch", "stage 3, questions of an evaluation"),  # another script
    ("rivals, order of an epoch", "rivals, options of a problem"),
}


def test_which_streams_coincide():
    padded = {name: {(*key, 0, 0, 0)[:4] for key in keys} for name, keys in SHORT.items()}
    found = {(a, b) for a, b in itertools.combinations(SHORT, 2) if padded[a] & padded[b]}
    assert found == COINCIDE
    assert all(len(padded[name]) == len(keys) for name, keys in SHORT.items())  # none coincides with itself


def test_a_walk_visits_everything_once_an_epoch_and_depends_on_its_key():
    items = list("abcdefg")
    walked = [item for step in range(1, 8) for item in walk(items, step, 3, SEED, 50)]
    assert all(sorted(walked[k : k + 7]) == items for k in (0, 7, 14)) and walked[:7] != walked[7:14]
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence((SEED, 50, 0)))).permutation(7)
    assert walked[:7] == [items[i] for i in order]
    assert walked != [item for step in range(1, 8) for item in walk(items, step, 3, SEED, 51)]
