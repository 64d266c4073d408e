"""Other model families through the same code: their turns by ids, their heads, and what is refused."""

import os
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, tiny, tiny_gemma4, tokenizer_of
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, normalizers
from transformers import AutoConfig

from benchmarks.common import take_step
from common import Shared, UserError
from introspection import logprobs, models, prompts
from introspection.chat import Chat
from introspection.logprobs import check_scorer, collate, head_of, packable, token_logprobs
from introspection.losses import policy_gradient
from introspection.reader import Reader, cut_before_letter, option_probabilities, tokens_alike
from introspection.rehearsal import user_turn
from introspection.sampling import Completion, Trajectory, noise, sample
from introspection.update import Updater
from tasks.mcq import Question, grade

PROMPTS = [[4, 8, 6, 7] * 6, [9, 10, 11], [4, 8, 6, 7] * 5 + [12, 13]]
GEMMA_EOS = [1, 5]


RIGHT = [name for name, family in FAMILIES.items() if not family.refused]


@pytest.fixture(params=RIGHT)
def family(request):
    tokenizer, ends = tokenizer_of(request.param)
    return request.param, tokenizer, ends


def chat_of(name: str, system: str = "") -> Chat:
    return Chat(*tokenizer_of(name), system, FAMILIES[name].thinking)


def rendered(chat: Chat, *contents: str, system: str = "") -> list[int]:
    """Ids of a whole conversation by the tokenizer's own template."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    text = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **chat.fixed)
    return chat.tokenizer(text, add_special_tokens=False).input_ids


def without_thought(chat: Chat, ids: list[int]) -> list[int]:
    """Ids up to the thought that a generation prompt opens, empty or not."""
    starts = [ids.index(start) for start, _ in chat.thinking if start in ids]
    return ids[: min(starts)] if starts else ids


# ---- turns ---------------------------------------------------------------------------------------------------------
def test_turns_by_ids_are_the_turns_of_the_template(family):
    """Three turns, pieced together from ids, are what the tokenizer makes of the whole rendering, id for id."""
    name, _, ends = family
    chat = chat_of(name)
    whole, first = rendered(chat, "one", "Answer: x (B)", "two"), chat.first("one")
    assert first == rendered(chat, "one")
    kept = without_thought(chat, first)  # an earlier turn's thought is dropped; sampled ids never are
    assert whole[: len(kept)] == kept
    end = whole.index(chat.end, len(kept))
    own = whole[len(kept) : end + 1]
    assert chat.text(own).strip() == ("" if chat.thinks_first else "Answer: x (B)")
    assert kept + own + chat.next(own, "two") == whole
    assert chat.next(own[:-1], "two") == [chat.end, *chat.next(own, "two")]  # a turn that reached its limit
    assert chat.end in chat.eos_ids and set(ends) <= chat.eos_ids


@pytest.mark.parametrize("system", ["", "Say little."])
def test_a_user_goes_on_from_where_every_first_turn_begins(family, system):
    chat = chat_of(family[0], system)
    opening, asked = chat.opening(), chat.first("which one?")
    assert opening and asked[: len(opening)] == opening
    rest = chat.tokenizer.decode(asked[len(opening) :], skip_special_tokens=True)
    assert rest.strip().startswith("which one?")


def test_a_made_up_user_is_heard_whatever_thoughts_a_prompt_opens(family):
    chat = chat_of(family[0])
    said = chat.content_ids("which one?")
    assert user_turn(chat, [*said, chat.end]).strip() == "which one?"
    assert user_turn(chat, said) is None  # cut off
    for control in chat.control_ids:  # what ends a user's turn, if it is no end of a model's, is not part of it
        assert user_turn(chat, [*said, control, *said, chat.end]).strip() == "which one?"
    replied = [*chat.first("which one?")[len(chat.opening()) :], *said, chat.end]  # the model has gone on as itself
    assert user_turn(chat, replied).strip() == "which one?"


def test_the_end_of_a_turn_is_the_families_own():
    ends = {name: chat_of(name).tokenizer.decode([chat_of(name).end]) for name in RIGHT}
    own = {"gemma2": "<end_of_turn>", "gemma3": "<end_of_turn>", "gemma4": "<turn|>", "phi3": "<|end|>"}
    assert ends == {name: FAMILIES[name].eos for name in RIGHT} | own


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.refused])
def test_what_cannot_be_right_is_refused(name):
    with pytest.raises(UserError, match=FAMILIES[name].refused):
        chat_of(name)


def test_a_template_that_is_refused_says_what_it_does():
    tokenizer, ends = tokenizer_of("chatml")
    tokenizer.chat_template = "{{ messages[-1].content }}<|im_end|>"
    with pytest.raises(UserError, match="does not keep turn contents"):
        Chat(tokenizer, ends)
    tokenizer.chat_template = "{{ strftime_now(format) }}" + FAMILIES["chatml"].template
    with pytest.raises(UserError, match="strftime_now"):
        Chat(tokenizer, ends)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"chat_template\.jinja"):
        Chat(tokenizer, ends)


def test_a_prompt_is_the_same_tomorrow():
    for name, date in (("llama3", "01 Jan 2026"), ("granite", "January 01, 2026")):
        assert date in chat_of(name).tokenizer.decode(chat_of(name).first("hello"))


def test_a_system_prompt_has_its_place_in_every_family(family):
    """In its role, or in front of the first user turn: never in the second one, and never a mark of ours."""
    name, tokenizer, _ = family
    chat = chat_of(name, "be kind")
    text = tokenizer.decode(chat.first("hello"))
    assert text.count("be kind") == 1 and text.index("be kind") < text.index("hello")
    assert ("be kind\n\nhello" in text and chat.system == []) == FAMILIES[name].folds
    if not FAMILIES[name].folds:
        assert chat.first("hello") == rendered(chat, "hello", system="be kind")
        whole = rendered(chat, "one", "fine", "two", system="be kind")
        assert whole[-len(chat.next([chat.end], "two")) :] == chat.next([chat.end], "two")
    for after in (chat.next([], "more"), chat_of(name).first("hello")):
        assert "be kind" not in tokenizer.decode(after) and "-turn" not in tokenizer.decode(after)


# ---- text as data --------------------------------------------------------------------------------------------------
def test_no_text_becomes_a_control_token(family):
    """Every added token of the family in question, options, point, explanation and peer, with our own tags around it,
    and half a surrogate pair."""
    name, tokenizer, _ = family
    chat = chat_of(name, "be kind")

    def controls(ids: list[int]) -> int:
        return sum(token in chat.control_ids for token in ids)

    shell, between = controls(chat.first("x")), controls(chat.next([], "x"))
    for payload in [*(str(token) for token in tokenizer.added_tokens_decoder.values()), "\ud800", "\ue000"]:
        attack = f"x {payload} </introspection>{payload}"
        turn = prompts.question_turn(attack, [attack, "y"], attack)
        assert controls(chat.first(turn)) == shell
        reflection = prompts.reflection_turn(False, "A", attack, prompts.told(attack, attack))
        assert controls(chat.next([], reflection)) == between
        assert controls(chat.content_ids(attack)) == 0
        assert "</introspection>" not in turn and reflection.count("</introspection>") == 1
    assert "\ufffd" in tokenizer.decode(chat.first("half a pair \ud83d alone"))
    assert "\U0001f600" in tokenizer.decode(chat.content_ids("\ud83d\ude00"))  # a whole one is a character


def test_a_token_that_appears_when_text_is_rewritten_is_no_token_either():
    """A normaliser turns wide letters into a token that is matched after it: each character stands for itself then."""
    tokenizer, ends = tokenizer_of("chatml")
    tokenizer._tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("<tool>", normalized=True, special=False)])
    chat = Chat(tokenizer, ends)
    tool = tokenizer.convert_tokens_to_ids("<tool>")
    wide = "\uff1ctool\uff1e"
    assert tool in tokenizer(wide, add_special_tokens=False).input_ids
    assert tool not in chat.first(f"a {wide} b") and "tool" in tokenizer.decode(chat.first(f"a {wide} b"))


def test_a_next_turn_that_is_cut_everywhere_is_still_cut_at_its_place():
    """The same with words of several characters: what stands before the second user turn keeps its ids."""
    tokenizer = models.load_tokenizer("organism/weights")
    tokenizer._tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("<tool>", normalized=True, special=False)])
    chat = Chat(tokenizer, models.eos_ids("organism/weights", tokenizer))
    plain, hostile = chat.next([], "a b"), chat.next([], "a \uff1ctool\uff1e b")
    assert tokenizer.convert_tokens_to_ids("<tool>") not in hostile
    assert tokenizer.decode(hostile) == tokenizer.decode(plain).replace("a b", "a <tool> b")
    chat.before_next = chat.before_next[:-1] + [0]
    with pytest.raises(UserError, match="by what comes after them"):
        chat.next([], "a b")


# ---- scorer and sampler --------------------------------------------------------------------------------------------
def test_what_is_scored_is_what_was_sampled(family):
    name, tokenizer, _ = family
    kind, more = FAMILIES[name].config
    check_scorer(tiny(kind, len(tokenizer), **more), chat_of(name))


@pytest.mark.parametrize(
    "kind, more",
    [("cohere", {"logit_scale": 0.0625}), ("cohere2", {"logit_scale": 0.0625, "sliding_window": 16}), ("gpt2", {}),
     ("olmo2", {}), ("smollm3", {}), ("nemotron", {})],
)  # fmt: skip
def test_other_heads_and_bodies(kind, more):
    chat = chat_of("chatml")
    check_scorer(tiny(kind, len(chat.tokenizer), **more), chat)


def test_a_head_that_does_more_than_we_know_is_refused(monkeypatch):
    kind, more = FAMILIES["granite"].config
    chat = chat_of("granite")
    model = tiny(kind, len(chat.tokenizer), **more)
    monkeypatch.setattr(logprobs, "head_of", lambda model: replace(head_of(model), scale=1.0))
    with pytest.raises(UserError, match=r"granite cannot be trained here: .* off by"):
        check_scorer(model, chat)
    check_scorer(tiny("llama", len(chat.tokenizer)).bfloat16(), chat)  # rounding is allowed for


def test_a_model_without_a_cache_of_keys_is_one_line():
    chat = chat_of("chatml")
    with pytest.raises(UserError, match="rwkv cannot be"):
        check_scorer(tiny("rwkv", len(chat.tokenizer)), chat)
    model = tiny("llama", len(chat.tokenizer))
    model.get_decoder = lambda: model.no_such_part
    with pytest.raises(UserError, match=r"llama cannot be sampled with a cache of keys and values: .*no_such_part"):
        check_scorer(model, chat)


LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}


@pytest.mark.parametrize(
    "kind, more",
    [
        ("qwen3_5_text", LINEAR | {"layer_types": ["linear_attention", "full_attention"]}),
        ("qwen3_next", LINEAR | {"layer_types": ["linear_attention", "full_attention"]}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("granitemoehybrid", {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8}),
        ("bamba", {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8}),
        ("falcon_h1", {}),
    ],
)
def test_layers_that_keep_more_than_keys_are_refused_before_weights(kind, more, tmp_path):
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    AutoConfig.for_model(kind).__class__(**(common | more)).save_pretrained(tmp_path)
    tokenizer_of("chatml")[0].save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"layers of kind (linear_attention|conv|hybrid)") as error:
        models.load_chat(str(tmp_path))
    assert kind.removesuffix("_text") in str(error.value)


@pytest.mark.skipif("SMOLLM2" not in os.environ, reason="needs the folder of SmolLM2-135M-Instruct in SMOLLM2")
def test_a_real_tokenizer_and_its_model():
    folder = os.environ["SMOLLM2"]
    chat = models.load_chat(folder)
    whole = rendered(chat, "one", "Answer: x (B)", "two")
    first, after = chat.first("one"), chat.next([chat.end], "two")
    assert whole == [*first, *chat.turn("Answer: x (B)"), *after] and chat.tokenizer.decode([chat.end]) == "<|im_end|>"
    check_scorer(models.load_policy(folder, Shared()), chat)


# ---- thoughts ------------------------------------------------------------------------------------------------------
def test_a_thought_that_the_prompt_opens_ends_before_a_turn_of_ours():
    chat = chat_of("deepseek-r1")
    end = chat.tokenizer.convert_tokens_to_ids("</think>")
    turn = chat.turn("Answer: x (A)")
    assert chat.thinks_first and turn[0] == end and chat.text(turn).strip() == "Answer: x (A)"
    assert chat.close_thought(chat.content_ids("hm") + [end]) == []  # it ended by itself
    assert chat_of("qwen3").close_thought([]) == [] and not chat_of("qwen3-thinking").thinks_first
    other = chat_of("qwen3-thinking")  # the model opens it itself, and was cut off
    start, end = other.thinking[0]
    assert other.close_thought([start, *other.content_ids("hm")])[0] == end


def test_the_options_probability_is_read_after_a_thought():
    """reward: prob reads the letter's probability, not the letter, where the prompt had opened a thought."""
    chat = chat_of("deepseek-r1")
    question = Question("q", "?", ("x", "y", "z"), 1, "c", "train")
    end = chat.tokenizer.convert_tokens_to_ids("</think>")
    ids = [*chat.content_ids("hm"), end, *chat.content_ids("Answer: y (B)"), chat.end]
    reader = Reader(tiny("llama", len(chat.tokenizer)), chat, 1.0, 32, (0,))
    said = Completion(ids, [], True)
    (probability,) = option_probabilities(reader, [reader.prompt(question)], [said], [question])
    assert cut_before_letter(chat, ids, question)[1] == "B" and 0.0 < probability < 1.0


def test_letters_are_compared_in_the_spelling_that_was_sampled():
    """Encoded anew, a letter may get a space before it: 'Answer: y (B)' has the token 'B', 'Answer: B' has '▁B'."""

    class Vocabulary:
        pieces, unk_token_id = ["A", "B", "C", "▁A", "▁B", "▁C", "(B"], None
        convert_ids_to_tokens = pieces.__getitem__

        def convert_tokens_to_ids(self, pieces):
            return [self.pieces.index(piece) if piece in self.pieces else None for piece in pieces]

    assert tokens_alike(Vocabulary(), 1, "B", "ABC") == [0, 1, 2] and tokens_alike(Vocabulary(), 4, "B", "AB") == [3, 4]
    assert tokens_alike(Vocabulary(), 1, "B", "ABCD") is None and tokens_alike(Vocabulary(), 6, "B", "AB") is None
    chat = chat_of("llama2")
    question = Question("q", "?", ("x", "y", "z"), 1, "c", "train")
    ids = [*chat.content_ids("Answer: y (B)"), chat.end]
    reader = Reader(tiny("llama", len(chat.tokenizer)), chat, 1.0, 32, (0,))
    (probability,) = option_probabilities(reader, [reader.prompt(question)], [Completion(ids, [], True)], [question])
    assert 0.0 < probability < 1.0


def test_thoughts_written_letter_by_letter_are_no_answers():
    """A vocabulary without a token for '<think>' writes it in pieces."""
    chat = chat_of("llama2")
    question = Question("q", "?", ("x", "y", "z"), 1, "c", "train")
    assert not chat.thinking
    for said, right in (
        ("<think>The answer is C.</think>\nAnswer: B", True), ("<think>The answer is B. But wait", False),
        ("The answer is B, unless</think> I cannot say.", False), ("so C.</think>Answer: y (B)", True),
    ):  # fmt: skip
        assert grade(chat.text(chat.content_ids(said)), question) == right, said


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


@pytest.mark.parametrize("kind, rates", [
    ("gpt2", {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}),
    ("opt", {"dropout": 0.5, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    ("llama", {"attention_dropout": 0.5}),
])  # fmt: skip
def test_recomputation_turns_no_dropout_on(kind, rates):
    """Train mode is only for recomputing: the gradient is that of the model as it samples."""
    trajectories = [Trajectory(PROMPTS[0], [([7, 20, 5], True)])]
    moved = []
    for recomputed in (False, True):
        model = models.make_trainable(tiny(kind, 64, **rates), Shared(gradient_checkpointing=recomputed))
        updater = Updater(model, optimizer="sgd", lr=1.0, temperature=1.0, max_tokens=64)
        before = [p.detach().clone() for p in model.parameters()]
        take_step(updater, trajectories, [1.0], max_grad_norm=1e9)
        moved.append([old - new for old, new in zip(before, model.parameters(), strict=True)])
    assert any(change.abs().max() > 0 for change in moved[0])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*moved, strict=True))


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
@pytest.mark.parametrize("kind, name", [("gpt2", "c_attn"), ("gpt_neox", "query_key_value"), ("llama", "down_proj")])
def test_adapters_find_their_places(kind, name):
    pytest.importorskip("peft", reason="needs requirements-dev.txt")
    policy = models.make_trainable(tiny(kind, 64), Shared(lora_rank=2))
    trained = {name.split(".lora_")[0].rsplit(".", 1)[1] for name, p in policy.named_parameters() if p.requires_grad}
    assert name in trained and "lm_head" not in trained
    with pytest.raises(UserError, match="found no layers of rwkv to adapt"):
        models.make_trainable(tiny("rwkv", 64), Shared(lora_rank=2))


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
