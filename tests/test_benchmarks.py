"""benchmarks/: what they compare does the same work, and they run."""

import pytest
import torch
from conftest import EOS

from benchmarks import gemma, memory, rollouts, step
from benchmarks.common import random_llama

ASKED = [[4, 5, 6, 7, 8, 9], [4, 5, 6, 7, 8, 12, 13], [4, 5, 6, 7, 8, 14]]


@pytest.mark.parametrize("part", [part for part in rollouts.PARTS if part != "inverse-CDF sampling"])
def test_taking_a_measure_away_changes_the_cost_and_not_the_tokens(model64, monkeypatch, part):
    case = (model64, ASKED, 3, 12, [EOS])
    seen = []
    monkeypatch.setattr(rollouts, "sample", lambda *args, original=rollouts.sample: seen.append(original(*args)))
    rollouts.ours(*case)()
    rollouts.without(part, rollouts.ours(*case))()
    assert [c.ids for c in seen[0]] == [c.ids for c in seen[1]]


@pytest.mark.parametrize("variant", ["ours", "materialised"])
def test_both_sides_of_the_memory_benchmark_run(monkeypatch, variant):
    from introspection import update

    monkeypatch.setattr(memory, "VOCABULARY", 2048)
    monkeypatch.setattr(update, "token_logprobs", update.token_logprobs)  # put back what the variant changes
    assert memory.peak(variant, 2, 4) > 0


def test_a_measurement_holds_both_sides_and_both_floors():
    model = random_llama(64, 32, 1, heads=2)
    m = rollouts.measure((model, ASKED, 2, 6, list(range(2, 12))), 2, ("inverse-CDF sampling",))
    assert set(m["seconds"]) == {"ours", "generate", "ours without inverse-CDF sampling"}
    assert all(len(seconds) == 2 for seconds in m["seconds"].values())
    assert (
        m["rollouts"] == 6
        and 6 <= min(m["tokens"], m["tokens_generate"]) <= max(m["tokens"], m["tokens_generate"]) <= 36
        and m["replay"] > 0
        and m["roofline"] > 0
    )


@pytest.mark.dev
def test_a_step_at_the_shapes_of_gemma(monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(gemma, "VOCABULARY", 320)
    monkeypatch.setattr(
        gemma.torch,
        "randint",
        lambda low, high, *args, original=torch.randint, **named: original(low, min(high, 320), *args, **named),
    )
    sizes = gemma.SMALL | {"hidden_size": 16, "intermediate_size": 24, "hidden_size_per_layer_input": 4}
    model = gemma.random_gemma(sizes, "cpu", torch.float32)
    assert gemma.weights_read(model) < 4 * sum(
        p.numel() for p in model.parameters()
    )  # the per-layer table is looked up, not read
    trainable = gemma.models.make_trainable(
        model, gemma.Shared(lora_rank=2, freeze_embeddings=True, gradient_checkpointing=True)
    )
    seconds = gemma.step(trainable, "cpu", (12, 6, 4, 3), questions=2, group=2)
    assert set(seconds) == {"rollout1", "rollout2", "rollout3", "update"}


def test_our_side_of_the_step_benchmark_runs():
    size = step.Size(prompts=2, group=2)
    assert len(step.our_steps(False, 1, size)) == len(step.stage_1_steps(1, size)) == 1
