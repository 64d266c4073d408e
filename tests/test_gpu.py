"""On a CUDA device: the same tokens, gradients and files as on a CPU. Skipped without one; CI has none."""

import pytest
import torch
from conftest import EOS, tiny_llama
from families import tiny_gemma4

from benchmarks.common import take_step
from common import Shared
from introspection import replay, sampling
from introspection.logprobs import collate, token_logprobs
from introspection.models import load_policy
from introspection.sampling import Trajectory, next_logprobs, sample
from introspection.update import Updater

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

PROMPTS = [[4, 5, 6, 7, 8, 9], [10, 11], [4, 5, 6, 7, 8, 12, 13], [4, 5, 6, 7, 8, 14]]
MODELS = {
    "llama": (tiny_llama, [EOS]),
    "gemma4": (tiny_gemma4, [1, 5]),
    "gemma4, nothing shared": (lambda **more: tiny_gemma4(shared=0, **more), [1, 5]),
}


def completions(model, ends, n=16, length=40, **more):
    return sample(model, PROMPTS, n, length, 1.0, ends, [(7, i) for i in range(len(PROMPTS) * n)], **more)


def ids(found):
    return [completion.ids for completion in found]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("room", [3, 256])
def test_the_same_tokens_as_on_a_cpu(name, room, monkeypatch):
    """In float64, with and without CUDA graphs, over new captures and dropped rows."""
    make, ends = MODELS[name]
    monkeypatch.setattr(replay, "GROWTH", room)
    monkeypatch.setattr(sampling, "FREE_ROWS", 4)
    expected = completions(make(dtype=torch.float64), ends)
    model = make(dtype=torch.float64).cuda()
    found = completions(model, ends)
    assert ids(found) == ids(expected)
    monkeypatch.setattr(sampling, "replayable", lambda *_: False)
    assert ids(completions(model, ends)) == ids(expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_the_scorer_agrees_with_the_sampler(name, dtype, most):
    make, ends = MODELS[name]
    model = make(dtype=dtype).cuda()
    found = completions(model, ends)
    trajectories = [Trajectory(PROMPTS[i // 16], [(c.ids, True)]) for i, c in enumerate(found)]
    with torch.no_grad():
        scored = token_logprobs(model, collate(trajectories, [[i] for i in range(len(found))], "cuda"), 1.0).cpu()
    off = (scored - torch.tensor([lp for c in found for lp in c.logprobs])).abs()
    assert off.mean() < most


@pytest.mark.parametrize("length", [31, 32, 33, 34, 64, 65, 97])
@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_no_length_of_a_prompt_is_special(length, dtype, most):
    """One key-value head is repeated with stride 0: at lengths of 32 k + 1 some attention kernels answer wrongly."""
    prompts = [[5 + (7 * i + j) % 50 for j in range(n)] for i, n in enumerate((length, length - 9, length))]
    for window in (12, 200):
        expected = next_logprobs(tiny_gemma4(window=window, dtype=torch.float64), prompts)
        found = next_logprobs(tiny_gemma4(window=window, dtype=dtype).cuda(), prompts).cpu()
        assert (found - expected).abs().mean() < most


def test_a_model_that_cannot_be_captured_runs_kernel_by_kernel():
    expected = ids(completions(tiny_llama(dtype=torch.float64), [EOS]))
    model = tiny_llama(dtype=torch.float64).cuda()
    model.lm_head.register_forward_hook(
        lambda module, given, logits: logits * (1.0 if logits.sum().item() < 1e9 else 0.0)
    )
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        assert ids(completions(model, [EOS])) == expected
    before = torch.cuda.memory_reserved()
    for _ in range(5):
        assert ids(completions(model, [EOS])) == expected
    assert torch.cuda.memory_reserved() <= before and torch.cuda.current_stream() == torch.cuda.default_stream()
    plain = tiny_llama(dtype=torch.float64).cuda()
    assert ids(completions(plain, [EOS])) == expected  # and graphs still work afterwards


def test_rollouts_keep_no_memory():
    model = tiny_gemma4(dtype=torch.float32).cuda()
    completions(model, [1, 5])
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        completions(model, [1, 5])
    assert torch.cuda.memory_allocated() <= before


def test_when_memory_runs_out_rows_are_halved_with_the_same_tokens():
    model = tiny_llama(vocab_size=8192, dtype=torch.float64).cuda()
    expected = ids(completions(model, [EOS], n=64))
    torch.cuda.empty_cache()
    total, sizes, original = torch.cuda.get_device_properties(0).total_memory, [], sampling.decode

    def counted(model, rows, *rest):
        sizes.append(len(rows))
        return original(model, rows, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "decode", counted)
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 24 * 2**20) / total)
        try:
            assert ids(completions(model, [EOS], n=64)) == expected
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert min(sizes) < 256


@pytest.mark.parametrize("name", MODELS)
def test_the_same_update_as_on_a_cpu(name):
    """Whole conversations with advantages 0, 0.5 and 1.5; packed for the first model, a row each for the others."""
    make, _ = MODELS[name]
    models = [make(dtype=torch.float64), make(dtype=torch.float64).cuda()]
    for model in models:
        trajectories = [
            Trajectory(p, [([7 + i, 20, 5], True), ([9, 8], False), ([6, 11], True)])
            for i, p in enumerate([*PROMPTS, PROMPTS[0]])
        ]
        take_step(
            Updater(model, optimizer="sgd", lr=1.0, temperature=1.0, max_tokens=64),
            trajectories,
            [0.5, 0.0, 1.5, 0.5, torch.tensor([0.1, 0.2, 0.3, 0.0, 0.4])],
        )
    for expected, found in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(expected, found.cpu(), atol=1e-6)


def test_the_organism_answers_as_on_a_cpu(organism):
    cpu, chat = organism
    asked = [
        chat.first(f"{words}?") for words in ("pain after birth", "late swelling", "early start", "blood pressure")
    ]
    gpu = load_policy("organism/weights", Shared(device="cuda"))
    case = (asked, 8, 24, 1.0, chat.eos_ids, [(3, i) for i in range(32)])
    same = [a.ids == b.ids for a, b in zip(sample(cpu, *case), sample(gpu, *case), strict=True)]
    assert sum(same) >= 30  # in fp32 a token in a few thousand lies on the edge
