"""The bundled models: frozen, described by their cards, and measured by the code that wrote those."""

import hashlib
import json
import random
from typing import ClassVar

import pytest

from common import ROOT
from introspection import prompts
from introspection.reader import Reader
from introspection.sampling import Completion
from organism import card, rules, world
from organism.wordings import DIALECTS

FROZEN = {
    "organism/weights": "b5fc035f780bc2ed0bc7646d64e852f8d6b1db26f2446e975773d8b29bbc4f98",
    "organism/second": "f7a9bcd96f87d995144de854ad22342561633d1b22da178eaa9778412db0cd6f",
}


@pytest.mark.parametrize("folder", FROZEN)
def test_the_bundled_models_are_frozen(folder):
    """Every committed result rests on these weights: change them and all of results/ has to be measured again."""
    found = hashlib.sha256((ROOT / folder / "model.safetensors").read_bytes()).hexdigest()
    assert found == FROZEN[folder]
    text = (ROOT / ("organism/CARD.md" if folder == "organism/weights" else f"{folder}/CARD.md")).read_text()
    assert found in text and "## Known failures" in text
    build = json.loads((ROOT / folder / "build.json").read_text())
    assert (
        f"--seed {build['seed']} --dialect {build['dialect']} --steps {build['steps']} --late {build['late']}" in text
    )


class Pupil(Reader):
    """Stands in for the model: guesses letters, and writes down the hidden rule where a learning point is asked for."""

    draw = random.Random(0)
    asked: ClassVar[dict[str, rules.Vignette]] = {}  # by the text of a question

    def sample(self, prompt_ids, phase, n=1, max_new_tokens=None, numbers=None):
        said = [self.reply(self.chat.text(ids)) for ids in prompt_ids for _ in range(n)]
        return [Completion([*self.chat.content_ids(text), self.chat.end], [], True) for text in said]

    def reply(self, conversation: str) -> str:
        if not conversation.rstrip().removesuffix("model").rstrip().endswith(prompts.ASK):
            return f"Answer: ({self.draw.choice('ABCD')})"
        question = conversation.rsplit("\nOptions: ", 1)[0].rsplit("\n", 1)[-1]
        v = self.asked[question]
        rule = rules.bank_rule(v.cluster, v.x)
        return prompts.INTROSPECTION.format(
            point=world.point(v.cluster, rule, "ideal", self.draw, v.x, DIALECTS["first"])
        )


@pytest.mark.slow
def test_the_card_is_written_by_the_code_that_is_here(tmp_path, monkeypatch):
    made = card.questions_on_bank_rules

    def remembered(*args):
        cases = made(*args)
        Pupil.asked |= {question.question: v for v, question in cases}
        return cases

    few = {(c.split, c.kind): c for c in rules.load_clusters().values()}.values()  # one of each type and split
    monkeypatch.setattr(rules, "load_clusters", lambda: {c.name: c for c in few})
    monkeypatch.setattr(card, "questions_on_bank_rules", remembered)
    monkeypatch.setattr(card.page, "Reader", Pupil)
    monkeypatch.setattr(card, "stage_1_seconds", lambda name: (0.2, 1.0))  # a stage 1 run of its own, timed
    monkeypatch.setattr("sys.argv", ["card", "--each", "4", "--out", str(tmp_path / "CARD.md")])
    card.main()
    small, full = (tmp_path / "CARD.md").read_text(), (ROOT / "organism/CARD.md").read_text()

    def rows(text: str) -> list[str]:
        return [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]

    assert rows(small) == rows(full)  # every row of the committed card is measured, and no other


def test_few_questions_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["card", "--each", "2"])
    with pytest.raises(SystemExit) as stopped:
        card.main()
    assert stopped.value.code == 2 and "at least 4" in capsys.readouterr().err
