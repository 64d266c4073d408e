"""Two processes are one: the same metrics, the same weights, resume included (gloo, on the CPU)."""

import json
import shutil

import pytest
import torch
from commands import overrides, process, python
from conftest import SMALL
from safetensors.torch import load_file

from common import gather_ranks, is_first_rank, max_over_ranks, share_of_rank, sum_over_ranks

# SGD: AdamW turns a gradient that is zero but for rounding into a full step.
SETTINGS = [*SMALL, "optimizer=sgd", "lr=0.5", "questions_per_step=3"]


def command(parrot: str, bank: str, folder) -> list[str]:
    words = ["grpo_introspect.py", "--config", "configs/preeclampsia.yaml", "--run-dir", str(folder)]
    return words + overrides(*SETTINGS, f"shared.model={parrot}", f"shared.questions={bank}")


def two_processes(*words: str) -> str:
    """What `torchrun --nproc-per-node 2 <words>` prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = process(*launcher, *words, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(folder, name: str) -> list[dict]:
    records = [json.loads(line) for line in (folder / "grpo_introspect" / name).read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "tokens_per_second"))} for r in records]


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == pytest.approx(b, abs=1e-4) if isinstance(a, float) else a == b


@pytest.mark.slow
def test_two_processes_equal_one_and_resume(parrot, bank, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert python(*command(parrot, bank, one)).returncode == 0
    assert two_processes(*command(parrot, bank, two)).count("stage 1 finished") == 1  # the first rank alone speaks
    for name in ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl", "library.jsonl"):
        assert same(logged(one, name), logged(two, name)), name
    weights = [load_file(folder / "grpo_introspect/final/model.safetensors") for folder in (one, two)]
    start = load_file(f"{parrot}/model.safetensors")
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=2e-6), name
    assert any((tensor - start[name]).abs().max() > 1e-3 for name, tensor in weights[0].items())  # and they did move
    before = logged(two, "metrics.jsonl")
    for lost in ("final", "checkpoint-4"):
        shutil.rmtree(two / "grpo_introspect" / lost)
    two_processes(*command(parrot, bank, two), "--resume")
    assert logged(two, "metrics.jsonl") == before
    again = load_file(two / "grpo_introspect/final/model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights[1].items())


def test_one_process_is_a_world_of_one():
    assert share_of_rank(["a", "b"]) == (["a", "b"], [0, 1]) and gather_ranks([1, 2]) == [1, 2]
    assert sum_over_ranks(3) == 3 and max_over_ranks(2) == 2 and is_first_rank()
