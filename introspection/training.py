"""Opens a run for training: policy, reference, updater and the newest checkpoint.

The same for all stages and rivals.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

from common import Shared, write
from introspection import models
from introspection.chat import Chat
from introspection.logprobs import check_scorer
from introspection.rundir import Run
from introspection.update import Updater


@dataclass
class Training:
    """What a run trains: the policy, what it started from, and its optimiser.

    done: steps (or epochs) of earlier starts.
    """

    run: Run
    chat: Chat
    policy: object
    ref_policy: object | None  # the policy as it started, frozen
    updater: Updater
    done: int
    checkpoint: Path | None  # the folder that `done` steps left

    def save_checkpoint(self, step: int) -> None:
        self.run.save(f"checkpoint-{step}", self.write_checkpoint)

    def write_checkpoint(self, folder: Path) -> None:
        models.write_checkpoint(self.policy, self.updater, folder)

    def save_final(self, **beside: dict) -> None:
        """final/: a plain Hugging Face folder; beside: what else stands in it, by the name of its JSON file."""

        def write_files(folder: Path) -> None:
            models.save(self.policy, self.chat.tokenizer, folder)
            for name, record in beside.items():
                write(folder / f"{name}.json", json.dumps(record))

        self.run.save("final", write_files)


def open_training(
    run: Run,
    cfg: Shared,
    chat: Chat,
    *,
    lr: float,
    temperature: float,
    max_tokens: int,
    optimizer: str = "adamw",
    kl_coef: float = 0.0,
    keep_start: bool = False,
) -> Training:
    """Loads the weights of shared.model, opens the run directory, and goes on from its newest checkpoint where there is
    one.

    max_tokens: padded tokens of one forward and backward. keep_start: whether `ref_policy` is kept though no KL needs
    it.
    """
    policy = models.load_policy(cfg.model, cfg)
    check_scorer(policy, chat)
    ref_policy = copy.deepcopy(policy).requires_grad_(False) if kl_coef or keep_start else None
    policy = models.make_trainable(policy, cfg)
    run.open()
    settings = {"lr": lr, "temperature": temperature, "max_tokens": max_tokens, "kl_coef": kl_coef}
    updater = Updater(policy, optimizer=optimizer, ref_policy=ref_policy, **settings)
    done, checkpoint = run.rewind()
    if checkpoint:
        models.restore(policy, updater, checkpoint)
    return Training(run, chat, policy, ref_policy, updater, done, checkpoint)
