"""sampling.py: sampling is exact, unbiased, independent of the batch, and conversations grow by token ids."""

import numpy as np
import pytest
import torch
from conftest import EOS, tiny_llama
from families import tiny_gemma4
from transformers import Qwen3Config, Qwen3ForCausalLM

from introspection import cache, replay, sampling
from introspection.sampling import Trajectory, inverse_cdf, next_logprobs, noise, sample, shared_prefixes

PROMPTS = [[4, 5, 6, 7, 8, 9], [10, 11], [4, 5, 6, 7, 8, 12, 13], [4, 5, 6, 7, 8, 14]]


def keys(n: int) -> list[tuple[int, int]]:
    return [(7, i) for i in range(n)]


def naive(model, prompt: list[int], uniform, max_new_tokens: int, temperature: float) -> list[int]:
    """One row, no cache, no batch: what sampling means."""
    ids = list(prompt)
    for t in range(max_new_tokens):
        logits = model(torch.tensor([ids])).logits[:, -1]
        if temperature == 0:
            token = logits.argmax().item()
        else:
            cdf = torch.softmax(logits.double() / temperature, -1).cumsum(-1)[0]
            token = int((cdf <= uniform[t] * cdf[-1]).sum())
        ids.append(token)
        if token == EOS:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("temperature", [0, 0.8, 1.0])
@pytest.mark.parametrize("block", [4, 64])
def test_equals_one_row_at_a_time_without_a_cache(model64, monkeypatch, temperature, block):
    """Prefill sharing, cache repetition, compaction and growth after it change nothing (float64)."""
    monkeypatch.setattr(cache, "BLOCK", block)
    completions = sample(model64, PROMPTS, 3, 15, temperature, [EOS], keys(12))
    uniform = noise(keys(12), 15)
    with torch.no_grad():
        for i, completion in enumerate(completions):
            assert completion.ids == naive(model64, PROMPTS[i // 3], uniform[i], 15, temperature)
            assert completion.finished == (completion.ids[-1] == EOS)
            assert len(completion.logprobs) == len(completion.ids)
    assert len({len(c.ids) for c in completions}) > 2 or temperature == 0  # rows really finish at different times


@pytest.mark.parametrize("room", [1, 6, 256])
@pytest.mark.parametrize("window, shared", [(None, 0), (5, 3), (40, 3), (12, 0)])
@torch.no_grad()
def test_steps_on_fixed_storage_change_nothing(monkeypatch, room, window, shared):
    """What a GPU captures, kernel by kernel, float64: full, sliding, shared layers, new storage, dropped rows."""
    model = tiny_gemma4(window=window, shared=shared) if window else tiny_llama(dtype=torch.float64)
    ends = [EOS, *range(20, 28)]
    expected, steps, step = sample(model, PROMPTS, 3, 15, 1.0, ends, keys(12)), [], replay.Replay.__call__
    monkeypatch.setattr(replay, "GROWTH", room)
    monkeypatch.setattr(sampling, "replayable", lambda *_: True)
    monkeypatch.setattr(sampling, "FREE_ROWS", 1)
    monkeypatch.setattr(replay.Replay, "__call__", lambda self, tokens: steps.append(len(tokens)) or step(self, tokens))
    found = sample(model, PROMPTS, 3, 15, 1.0, ends, keys(12))
    assert [c.ids for c in found] == [c.ids for c in expected]
    assert len(steps) == max(len(c.ids) for c in found) - 1 and min(steps) < max(steps)


def test_only_rollouts_on_a_gpu_are_captured(model64):
    assert not replay.replayable(model64, cache.growing_cache(model64.config), 100)


def test_tokens_do_not_depend_on_the_batch(model64):
    together = sample(model64, PROMPTS, 4, 12, 1.0, [EOS], keys(16))
    reversed_order = sample(
        model64, PROMPTS[::-1], 4, 12, 1.0, [EOS], [keys(16)[4 * (3 - i // 4) + i % 4] for i in range(16)]
    )
    for i in range(16):
        alone = sample(model64, [PROMPTS[i // 4]], 1, 12, 1.0, [EOS], [keys(16)[i]])[0]
        assert alone.ids == together[i].ids == reversed_order[4 * (3 - i // 4) + i % 4].ids
    few = sample(model64, PROMPTS, 4, 12, 1.0, [EOS], keys(16), max_rows=3)
    assert [c.ids for c in few] == [c.ids for c in together]


def test_greedy_equals_generate(model64):
    for prompt in PROMPTS:
        mine = sample(model64, [prompt], 1, 12, 0, [EOS], keys(1))[0].ids
        theirs = model64.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=EOS, pad_token_id=0
        )
        assert mine == theirs[0, len(prompt) :].tolist()


def test_sampling_is_unbiased():
    """Chi-square on a toy vocabulary: 20,000 draws against the softmax, 99.9 % quantile."""
    logits = torch.tensor([1.0, -0.5, 0.3, 0.0, -30.0])
    tokens, logprobs = inverse_cdf(logits.expand(20_000, 5), noise(keys(20_000), 1)[:, 0], 1.0)
    counts, p = torch.bincount(tokens, minlength=5).double(), torch.softmax(logits.double(), 0)
    assert counts[4] == 0
    chi2 = ((counts - 20_000 * p)[:4].square() / (20_000 * p[:4])).sum()
    assert chi2 < 16.27  # 3 degrees of freedom
    assert torch.allclose(logprobs, torch.log_softmax(logits, 0)[tokens])


def test_noise_depends_on_its_key_alone():
    assert torch.equal(noise(keys(5), 8)[3], noise(keys(9)[3:4], 8)[0])
    assert torch.equal(noise(keys(1), 8)[0, :4], noise(keys(1), 4)[0])
    values = noise(keys(200), 50)
    assert abs(values.mean() - 0.5) < 0.02 and len(np.unique(values)) == values.numel()


def test_a_list_of_terminators_and_a_cap(model64):
    ends = [EOS, 5, 9]
    for completion in sample(model64, PROMPTS, 8, 6, 1.0, ends, keys(32)):
        assert not any(token in ends for token in completion.ids[:-1])
        assert completion.finished == (completion.ids[-1] in ends)
        assert completion.finished or len(completion.ids) == 6


def test_train_mode_and_checkpointing_do_not_change_rollouts(model):
    """Collapse cause 5 and the silent loss of the cache: eval mode and no_grad inside, the mode restored after."""
    quiet = sample(model, PROMPTS, 2, 8, 1.0, [EOS], keys(8))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    loud = sample(model, PROMPTS, 2, 8, 1.0, [EOS], keys(8))
    assert model.training and [c.ids for c in loud] == [c.ids for c in quiet]
    assert not next_logprobs(model, PROMPTS).requires_grad


def test_rollouts_leave_no_graph_behind(model):
    import gc

    sample(model, PROMPTS, 2, 8, 1.0, [EOS], keys(8))
    gc.collect()
    graph = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.grad_fn is not None]
    assert graph == []


def test_distinct_prompts_are_prefilled_once_and_prefixes_shared(model, monkeypatch):
    """16 points on one long question: the question runs once, not 16 times."""
    question, seen = list(range(4, 31)) * 2, []
    prompts = [[*question, 4 + i, 9, 3] for i in range(16)]
    original = sampling.forward
    monkeypatch.setattr(
        sampling, "forward", lambda m, ids, *rest: seen.append(tuple(ids.shape)) or original(m, ids, *rest)
    )
    sample(model, prompts, 2, 1, 1.0, [EOS], keys(32))
    assert seen[0] == (1, len(question)) and seen[1][0] == 16 and seen[1][1] <= 4


def test_shared_prefixes_partition_every_prompt():
    prefixes, group_of = shared_prefixes(PROMPTS)
    for prompt, group in zip(PROMPTS, group_of, strict=True):
        assert prompt[: len(prefixes[group])] == prefixes[group] and len(prefixes[group]) < len(prompt)
    assert group_of[0] == group_of[2] == group_of[3] != group_of[1]


@pytest.mark.parametrize("window", [5, 9, 12, 16, 64])
def test_sliding_windows_and_grouped_queries_sample_exactly(window):
    """A window that pads could reach forbids prefix sharing, because pads would push tokens out of it.

    Results stay exact.
    """
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, use_sliding_window=True, sliding_window=window,
        layer_types=["sliding_attention", "full_attention"], initializer_range=0.3,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).double().eval()
    prompts = [*PROMPTS, [4, 5, 6, 7, 8, *range(15, 24)]]
    completions = sample(model, prompts, 2, 10, 1.0, [EOS], keys(10))
    uniform = noise(keys(10), 10)
    with torch.no_grad():
        for i, completion in enumerate(completions):
            assert completion.ids == naive(model, prompts[i // 2], uniform[i], 10, 1.0)


def test_out_of_memory_halves_the_rows_with_the_same_tokens_and_is_remembered(model64, monkeypatch):
    whole, original, failures = sample(model64, PROMPTS, 4, 8, 1.0, [EOS], keys(16)), sampling.decode, []

    def small_machine(model, rows, *rest):
        if len(rows) > 5:
            failures.append(len(rows))
            raise torch.OutOfMemoryError
        return original(model, rows, *rest)

    monkeypatch.setattr(sampling, "decode", small_machine)
    monkeypatch.setattr(sampling, "FITTING_TOKENS", {})
    for _ in range(2):
        assert [c.ids for c in sample(model64, PROMPTS, 4, 8, 1.0, [EOS], keys(16))] == [c.ids for c in whole]
    assert failures == [16, 8]


def test_next_logprobs_equal_a_plain_forward(model64):
    expected = [torch.log_softmax(model64(torch.tensor([p])).logits[0, -1].float(), -1) for p in PROMPTS]
    assert torch.allclose(next_logprobs(model64, PROMPTS), torch.stack(expected), atol=1e-5)


def test_masks_come_from_lengths_even_when_pad_is_eos():
    """The sampled terminator is trained although its id is also the padding id; nothing else with that id is."""
    trajectory = Trajectory([0, 0, 4], [([5, 0], True), ([0, 6], False), ([7, 0], True)])
    assert trajectory.ids == [0, 0, 4, 5, 0, 0, 6, 7, 0]
    assert trajectory.loss_mask == [False] * 3 + [True] * 2 + [False] * 2 + [True] * 2


def test_prompts_beyond_the_models_context_are_told_of_once(model64, capsys):
    known = model64.config.max_position_embeddings
    for length in (known - 2, known - 1, known):
        sample(model64, [[3] * length], 1, 2, 1.0, [], [(0,)])
    said = capsys.readouterr().err
    assert (
        said.count("places") == 1
        and f"up to {known + 1} tokens with a turn, but the model knows {known} places" in said
    )


def test_nothing_to_sample_is_nothing(model64):
    assert sample(model64, [], 4, 8, 1.0, [EOS], []) == []


def test_wrong_number_of_keys_is_refused():
    with pytest.raises(ValueError, match="noise keys"):
        sample(tiny_llama(), PROMPTS, 2, 4, 1.0, [EOS], keys(3))


def test_rows_of_similar_length_are_sampled_together_with_the_same_tokens(model64, monkeypatch):
    """Parts hold every row once, waste little, and change nothing: noise belongs to the row."""
    lengths = [*range(100, 164), *range(300, 370), *[600] * 3]
    rows = [[1] * length for length in reversed(lengths)]
    parts = sampling.similar_lengths(rows)
    assert sorted(i for part in parts for i in part) == list(range(len(rows))) and len(parts) > 1
    for part in parts[:-1]:
        assert len(part) >= sampling.MIN_PART
    assert not any(len(rows[i]) < 164 for part in parts[1:] for i in part)
    assert sampling.similar_lengths([[1] * 5, [1] * 50]) == [[0, 1]] and sampling.similar_lengths([]) == []
    whole = sample(model64, PROMPTS, 4, 8, 1.0, [EOS], keys(16))
    monkeypatch.setattr(sampling, "MIN_PART", 1)
    assert len(sampling.similar_lengths([p for p in PROMPTS for _ in range(4)])) > 1
    assert [c.ids for c in sample(model64, PROMPTS, 4, 8, 1.0, [EOS], keys(16))] == [c.ids for c in whole]


def test_a_shared_prefix_runs_once_for_all_parts(model64, monkeypatch):
    question, widths, original = list(range(4, 31)), [], sampling.forward
    prompts = [[*question, *[5 + i] * (i + 1)] for i in range(5)]
    monkeypatch.setattr(sampling, "MIN_PART", 1)
    monkeypatch.setattr(sampling, "MAX_PADDING", 1.0)
    monkeypatch.setattr(
        sampling, "forward", lambda m, ids, *rest: widths.append(ids.shape[1]) or original(m, ids, *rest)
    )
    completions = sample(model64, prompts, 2, 6, 1.0, [EOS], keys(10))
    assert widths.count(len(question)) == 1 and sorted(w for w in widths if w != len(question))[-4:] == [
        2,
        3,
        4,
        5,
    ]  # five parts, longest last
    uniform = noise(keys(10), 6)
    with torch.no_grad():
        for i, completion in enumerate(completions):
            assert completion.ids == naive(model64, prompts[i // 2], uniform[i], 6, 1.0)


def test_rows_are_split_where_keys_and_values_would_not_fit(model):
    """A bound of next to nothing runs one row at a time, with the same tokens."""
    free = sample(model, PROMPTS, 2, 8, 1.0, [EOS], keys(8))
    bound = sample(model, PROMPTS, 2, 8, 1.0, [EOS], keys(8), kv_gib=1e-9)
    assert [c.ids for c in free] == [c.ids for c in bound]
    per_token = cache.bytes_per_token(model.config)
    assert (
        cache.rows_within(model.config, 100 * per_token / 2**30, 10) == 10
        and cache.rows_within(model.config, 1e-12, 10) == 1
    )
