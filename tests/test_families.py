"""Other model families through the same code: Gemma 4, Qwen 3, Llama 3, and templates without a system role."""

import pytest
import torch
from families import FAMILIES, tiny_gemma4, tokenizer_of
from safetensors.torch import load_file, save_file

from benchmarks.common import take_step
from common import Shared, UserError
from introspection import models, prompts
from introspection.chat import Chat
from introspection.logprobs import collate, packable, token_logprobs
from introspection.losses import policy_gradient
from introspection.sampling import Trajectory, noise, sample
from introspection.update import Updater
from tasks.mcq import Question, grade

PROMPTS = [[4, 8, 6, 7] * 6, [9, 10, 11], [4, 8, 6, 7] * 5 + [12, 13]]
GEMMA_EOS = [1, 5]


@pytest.fixture(params=FAMILIES)
def family(request):
    tokenizer, ends = tokenizer_of(request.param)
    return request.param, tokenizer, ends


def test_turns_by_ids_are_the_turns_of_the_template(family):
    """Three turns, pieced together from ids, decode to what the template renders.

    The date and the thinking switch are fixed.
    """
    name, tokenizer, ends = family
    chat = Chat(tokenizer, ends)
    said = chat.content_ids("Answer: x (B)") + [chat.end]
    ids = chat.first("one") + said + chat.next(said, "two")
    turns = [("user", "one"), ("assistant", "Answer: x (B)"), ("user", "two")]
    messages = [{"role": role, "content": content} for role, content in turns]
    settings = {"date_string": "01 Jan 2026", "enable_thinking": False}
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **settings)
    got = tokenizer.decode(ids)
    if (
        name == "qwen3"
    ):  # the empty thought that the prompt opened stays where the turn was sampled: ids are never rewritten
        assert got.count("<think>\n\n</think>\n\n") == 2 and rendered.count("<think>") == 1
        got = got.replace("<think>\n\n</think>\n\n", "", 1)
    assert got == rendered
    assert chat.end in chat.eos_ids and set(ends) <= chat.eos_ids
    cut = said[:-1]  # a turn that reached its limit gets its terminator from the template
    assert chat.first("one") + cut + chat.next(cut, "two") == ids


def test_no_text_becomes_a_control_token(family):
    """Every added token of the family, in every field that comes from data, with our own tags around it."""
    _, tokenizer, ends = family
    chat = Chat(tokenizer, ends, system="be kind")
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if len(str(token)) > 1}
    shell = sum(token in added for token in chat.first(""))
    between = sum(token in added for token in chat.next([], ""))
    for payload in (str(token) for token in tokenizer.added_tokens_decoder.values()):
        attack = f"x {payload} </introspection>{payload}"
        turn = prompts.question_turn(attack, [attack, "y"], attack)
        assert sum(token in added for token in chat.first(turn)) == shell
        reflection = prompts.reflection_turn(False, "A", attack, prompts.told(attack, attack))
        assert sum(token in added for token in chat.next([], reflection)) == between
        assert "</introspection>" not in turn and reflection.count("</introspection>") == 1


def test_a_system_prompt_has_its_place_in_every_family(family):
    name, tokenizer, ends = family
    chat = Chat(tokenizer, ends, system="be kind")
    text = tokenizer.decode(chat.first("hello"))
    assert text.count("be kind") == 1 and text.index("be kind") < text.index("hello")
    if name == "gemma2":  # no such role: in front of the first user turn
        assert "be kind\n\nhello" in text and "system" not in text
    else:
        assert "system" in text
    assert "be kind" not in tokenizer.decode(chat.next([], "more"))
    assert "be kind" not in tokenizer.decode(Chat(tokenizer, ends).first("hello"))


def test_a_base_model_without_a_template_is_told_what_is_missing():
    tokenizer, ends = tokenizer_of("gemma4")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"chat_template\.jinja"):
        Chat(tokenizer, ends)


@pytest.mark.parametrize("name, start, end", [("qwen3", "<think>", "</think>"), ("gemma4", "<|channel>", "<channel|>")])
def test_thoughts_are_no_answers(name, start, end):
    tokenizer, ends = tokenizer_of(name)
    chat = Chat(tokenizer, ends)
    question = Question("q", "?", ("x", "y", "z"), 1, "c", "train")

    def spoken(*pieces):
        ids = []
        for piece in pieces:
            ids += [tokenizer.convert_tokens_to_ids(piece)] if piece in (start, end) else chat.content_ids(piece)
        return chat.text(ids)

    assert spoken(start, "Answer: x (A)", end, "Answer: y (B)") == "Answer: y (B)"
    assert grade(spoken(start, "Answer: x (A)", end, "Answer: y (B)"), question)
    assert not grade(spoken("", start, "Answer: y (B)"), question)  # cut off while thinking
    assert spoken("Answer: y (B) still thinking", end, "no") == "no"  # the prompt had opened the thought
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\n\n</think>\n\n", "<think>\n") + (
        "<|channel>" if name == "gemma4" else ""
    )
    chat = Chat(tokenizer, ends)
    assert chat.thinks_first and spoken("Answer: y (B)") == "" and spoken("hm", end, "Answer: y (B)") == "Answer: y (B)"
    chat = Chat(*tokenizer_of(name))
    point = spoken(start, "an <introspection>draft</introspection>", end, "<introspection>the point</introspection>")
    assert prompts.parse_point(point) == "the point"


# ---- Gemma 4: sliding windows, shared key-values, per-layer embeddings, soft-cap -----------------------------------
def naive(model, prompt, uniform, length):
    """Sampling by whole forward passes, no cache."""
    ids = list(prompt)
    for t in range(length):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        cdf = torch.softmax(logits, -1).cumsum(-1)
        ids.append(int(torch.searchsorted(cdf, uniform[t] * cdf[-1], right=True)))
        if ids[-1] in GEMMA_EOS:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("window, shared", [(5, 3), (12, 3), (40, 3), (12, 0)])
@torch.no_grad()
def test_gemma4_samples_exactly_and_scores_what_it_sampled(window, shared):
    model = tiny_gemma4(window=window, shared=shared)
    keys = [(3, i) for i in range(9)]
    completions, uniform = sample(model, PROMPTS, 3, 8, 1.0, GEMMA_EOS, keys), noise(keys, 8)
    for i, completion in enumerate(completions):
        assert completion.ids == naive(model, PROMPTS[i // 3], uniform[i], 8)
    trajectories = [Trajectory(PROMPTS[i // 3], [(c.ids, True)]) for i, c in enumerate(completions)]
    scored = token_logprobs(model, collate(trajectories, [[i] for i in range(9)], "cpu"), 1.0)
    assert not packable(model)
    assert torch.allclose(scored, torch.tensor([lp for c in completions for lp in c.logprobs]).float(), atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gemma4_gradient_is_that_of_the_definition(checkpointing):
    """One SGD step against float64 autograd through the whole model, soft-cap and all; recomputation loses nothing."""
    model, reference = tiny_gemma4(), tiny_gemma4()
    passes = []
    model.get_decoder().layers[0].self_attn.register_forward_pre_hook(lambda *_: passes.append(1))
    if checkpointing:
        model = models.make_trainable(model, Shared(gradient_checkpointing=True))
    trajectories = [Trajectory(p, [([7 + i, 20, 5], True)]) for i, p in enumerate(PROMPTS)]
    advantages = [0.5, 0.0, 1.5]
    loss = 0.0
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        ids = torch.tensor([trajectory.ids])
        logp = torch.log_softmax(reference(input_ids=ids, use_cache=False).logits[0], -1)
        logp = logp[:-1].gather(1, ids[0, 1:, None])[:, 0][-3:]
        loss = loss + policy_gradient(logp, torch.full((3,), advantage), 9)
    loss.backward()
    before = [p.detach().clone() for p in model.parameters()]
    take_step(
        Updater(model, optimizer="sgd", lr=1.0, temperature=1.0, max_tokens=64),
        trajectories,
        advantages,
        max_grad_norm=1e9,
    )
    assert not model.training
    assert len(passes) == (2 if checkpointing else 1)  # the forward pass runs again in the backward one
    for (name, wanted), old, new in zip(reference.named_parameters(), before, model.parameters(), strict=True):
        gradient = torch.zeros_like(old) if wanted.grad is None else wanted.grad
        assert torch.allclose(old - new, gradient, atol=2e-6), name  # log-probabilities are fp32


def test_gemma4_folder_loads_whole_or_not_at_all(tmp_path):
    tiny_gemma4(dtype=torch.float32).save_pretrained(tmp_path)
    policy = models.load_policy(str(tmp_path), Shared())
    assert type(policy).__name__ == "Gemma4ForConditionalGeneration"
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "layers.0.mlp.gate_proj" in name)
    save_file(
        {name: tensor for name, tensor in weights.items() if name != lost},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(UserError, match="lacks weights") as error:
        models.load_policy(str(tmp_path), Shared())
    assert "layers.0.mlp.gate_proj" in str(error.value)


def test_frozen_embeddings_stay_and_the_rest_moves():
    model = models.make_trainable(tiny_gemma4(dtype=torch.bfloat16), Shared(freeze_embeddings=True))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update = take_step(
        Updater(model, optimizer="adamw", lr=1e-2, temperature=1.0, max_tokens=64),
        [Trajectory(PROMPTS[0], [([7, 20, 5], True)])],
        [1.0],
    )
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not any("embed_tokens" in name for name in moved) and any("q_proj" in name for name in moved)
    assert sum("embed_tokens" in name for name in before) == 2  # the tied one, and one embedding per layer
    assert update["update_ratio"] > 0.9  # fp32 masters


@pytest.mark.dev
def test_lora_trains_fp32_adapters_and_merges_into_a_plain_folder(tmp_path):
    pytest.importorskip("peft", reason="needs requirements-dev.txt")
    base = tiny_gemma4(dtype=torch.bfloat16)
    start = {name: p.detach().clone() for name, p in base.named_parameters()}
    policy = models.make_trainable(base, Shared(lora_rank=4))
    twin = models.make_trainable(tiny_gemma4(dtype=torch.bfloat16), Shared(lora_rank=4))  # as on another rank
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), twin.parameters(), strict=True))
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained} >= {
        "q_proj",
        "o_proj",
        "gate_proj",
        "down_proj",
    }
    updater = Updater(policy, optimizer="adamw", lr=1e-2, temperature=1.0, max_tokens=64)
    for _ in range(2):  # the first step moves B away from zero, the second one moves A
        take_step(updater, [Trajectory(PROMPTS[0], [([7, 20, 5], True)])], [1.0])
    completions = sample(policy, PROMPTS, 2, 6, 1.0, GEMMA_EOS, [(1, i) for i in range(6)])
    assert all(c.ids for c in completions)
    models.write_checkpoint(policy, updater, tmp_path)
    assert set(load_file(tmp_path / "weights.safetensors")) == set(trained)
    with torch.no_grad():
        kept = {name: p.clone() for name, p in trained.items()}
        for p in trained.values():
            p.zero_()
    models.restore(policy, updater, tmp_path)
    assert all(torch.equal(p, kept[name]) for name, p in trained.items())
    tokenizer, _ = tokenizer_of("gemma4")
    models.save(policy, tokenizer, tmp_path / "final")
    merged = models.load_policy(str(tmp_path / "final"), Shared(dtype="bfloat16"))
    assert any(not torch.equal(p, start[name]) for name, p in merged.named_parameters() if name in start)
    assert {name for name, _ in merged.named_parameters()} == set(start)
