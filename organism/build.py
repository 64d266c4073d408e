"""Builds the bundled model from nothing: tokenizer and pre-training (about 110 minutes on 2 cores).

    python -m organism.build --out organism/weights      # resumable: run it again after an interruption
    python -m organism.card                              # then measure it

Outputs: a plain Hugging Face folder (config, safetensors, tokenizer with chat template, generation config).
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from introspection.chat import Chat
from organism import rules, world
from organism.corpus import EARLY, LATE, Corpus
from organism.wordings import DIALECTS

ROPE_THETA = 1e6  # most of the 32 dimensions of a head barely rotate, so that tokens can be compared over any distance
LATE_LR = 0.6  # peak of the second phase's learning rate, as a share of the first's
SAVE_EVERY = 200  # steps
HELP = {"late": "steps of the second phase, which has an optimiser of its own, after --steps of the first"}
PART_TOKENS = 4096  # a batch is computed in parts of similar length, padding included
USER_WEIGHT = 0.25  # loss weight of user turns: predicting their repetitions builds the circuits that copy
EOS_IDS = [1, 4]  # <eos> and <turn|>
# Words, numbers, tags and option letters "(B)" are never split or merged with what follows.
WORDS = r" ?\([A-H]\)| ?</?[a-z]+>| ?[A-Za-z]+(?:-[A-Za-z]+)*| ?\d+| ?[^\sA-Za-z\d]|\s+(?!\S)|\s+"
SPECIAL = ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] }}<turn|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def bank_texts(clusters: dict[str, rules.Cluster]) -> set[str]:
    """Every question text of the bank, twins included: pre-training never shows one of them."""
    records = world.bank(clusters) + world.preeclampsia(clusters)
    return {r["question"] for r in records} | {twin["question"] for r in records for twin in r["variants"]}


def make_tokenizer(
    corpus, words: str = WORDS, documents: int = 20_000, vocab_size: int = 2048
) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the corpus, with Gemma 4's turn tokens: encodes any text, keeps numbers whole."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    texts = ("".join(turn) for _ in range(documents) for turn in corpus.document())  # a pair (given, said) is one text
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(chat: Chat, turns: list) -> tuple[list[int], list[float]]:
    """Ids of a document and their loss weights: 1 in the model's turns with their ends, 0 on what was given to it."""
    ids = chat.first(turns[0])
    weights = [USER_WEIGHT] * len(ids)
    for i, turn in enumerate(turns[1:], start=1):
        if i % 2:
            given, said = turn if isinstance(turn, tuple) else ("", turn)
            given, said = chat.content_ids(given), chat.content_ids(said) + EOS_IDS[-1:]
            ids, weights = ids + given + said, weights + [0.0] * len(given) + [1.0] * len(said)
        else:
            asked = chat.next(EOS_IDS[-1:], turn)
            ids, weights = ids + asked, weights + [USER_WEIGHT] * len(asked)
    return ids, weights


def batch_of(corpus, chat: Chat, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`size` documents as right-padded parts of similar length, at most PART_TOKENS: ids and weights, both (B, T)."""
    made = sorted((encode(chat, corpus.document()) for _ in range(size)), key=lambda document: len(document[0]))
    chunks = [[]]
    for document in made:  # the longest of a part comes last
        if chunks[-1] and (len(chunks[-1]) + 1) * len(document[0]) > PART_TOKENS:
            chunks.append([])
        chunks[-1].append(document)
    parts = []
    for chunk in chunks:
        width = -(-len(chunk[-1][0]) // 16) * 16  # few shapes: oneDNN compiles its kernels anew for each
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in chunk])
        parts.append((ids, torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in chunk])))
    return parts


def make_model(vocab_size: int, width: int, layers: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=1024,
        tie_word_embeddings=True, attention_bias=True, initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        pad_token_id=0, eos_token_id=EOS_IDS, bos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    start_with_induction_heads(model)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=EOS_IDS, bos_token_id=2, do_sample=True)
    return model


@torch.no_grad()
def start_with_induction_heads(model: LlamaForCausalLM, strength: float = 60.0, pairs: int = 5) -> None:
    """Starts two pairs of heads as induction heads ('what followed this token before?'); everything stays trainable.

    Binding an option's text to its letter is induction, and a model this small discovers it only after a plateau
    longer than our whole pre-training (docs/LOG.md). Heads 0 and 1 of the first layer look one token back (a matter
    of biases: rotary phases make q_t . k_s largest at s = t - 1) and copy a quarter of its embedding aside; heads 0
    and 1 of the second layer compare the current token with that copy and write out the token found.
    """
    size, width = 32, model.config.hidden_size
    for layer in model.model.layers:  # small residual writes, so that a token's own embedding is still there to compare
        layer.self_attn.o_proj.weight *= 0.05
        layer.mlp.down_proj.weight *= 0.05
    shift, match = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    frequency, eye = ROPE_THETA ** (-2 * torch.arange(pairs) / size), torch.eye(size)
    for head in range(2):
        rows = slice(head * size, (head + 1) * size)  # of the head, and of the part of the embedding that it compares
        aside = slice(width - (head + 1) * size, width - head * size)
        for attention in (shift, match):
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                projection.weight[rows] *= 0.1
            attention.o_proj.weight[:, rows] *= 0.1
        first = head * size
        shift.k_proj.bias[first : first + pairs] = strength**0.5
        shift.q_proj.bias[first : first + pairs] = strength**0.5 * torch.cos(frequency)
        shift.q_proj.bias[first + size // 2 : first + size // 2 + pairs] = -(strength**0.5) * torch.sin(frequency)
        shift.v_proj.weight[rows, rows] += eye
        shift.o_proj.weight[aside, rows] += 0.3 * eye
        match.q_proj.weight[rows, rows] += 2.5 * eye
        match.k_proj.weight[rows, aside] += 2.5 * eye
        match.v_proj.weight[rows, rows] += eye
        match.o_proj.weight[rows, rows] += 0.5 * eye


def lm_loss(model, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the cross-entropy: ids (B, T), weights (B, T) of each token as a target, 0 at padding."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, H)
    logits = model.lm_head(hidden)[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def learning_rate(step: int, steps: int) -> float:
    """Share of the peak: a slow ramp, so that the first loud gradients do not undo the start, then a cosine."""
    return min((step + 1) / 300, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def optimiser(model, lr: float, steps: int) -> tuple:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))


def train(args: argparse.Namespace, first, corpus_of: Callable, words: str = WORDS) -> None:
    """Pre-training in two phases of args.steps and args.late steps.

    first: the corpus of the tokenizer; corpus_of(step): that of a step, drawn from its own seed, so that a resumed run
    sees the same.
    """
    saved, state, steps = args.out / "build.pt", {"step": 0, "tokens": 0, "seconds": 0.0}, args.steps + args.late
    if saved.exists():  # with the tokenizer that the model grew up with, whatever changed in the templates since
        tokenizer = AutoTokenizer.from_pretrained(args.out)
    else:
        tokenizer = make_tokenizer(first, words)
        tokenizer.save_pretrained(args.out)
    chat = Chat(tokenizer, EOS_IDS)
    model = make_model(len(tokenizer), args.width, args.layers, args.seed)
    model.set_attn_implementation("eager")  # on a CPU, at these lengths, twice as fast as sdpa's backward
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        if state["settings"] != settings:
            raise SystemExit(
                f"{saved}: was started with {state['settings']}; finish it with these, choose another --out, "
                "or delete it"
            )
        model.load_state_dict(state["model"])
    done, tokens, seconds = state["step"], state["tokens"], state["seconds"]
    bar = tqdm(range(done, steps), initial=done, total=steps, desc="pre-training", mininterval=5)
    recent, started, resumed = [], time.time() - seconds, time.time()
    for step in bar:
        if step in (done, args.steps):  # each phase has its own optimiser and schedule
            lr, length = (LATE_LR * args.lr, args.late) if step >= args.steps else (args.lr, args.steps)
            optimizer, schedule = optimiser(model, lr, length)
            if step not in (0, args.steps):
                optimizer.load_state_dict(state["optimizer"])
                schedule.load_state_dict(state["schedule"])
        parts = batch_of(corpus_of(step), chat, args.batch)
        recent = [*recent[-49:], update(model, optimizer, parts)]
        schedule.step()
        tokens += sum(int((weights > 0).sum()) for _, weights in parts)
        seconds = time.time() - started
        end = time.time() + (time.time() - resumed) / (step + 1 - done) * (steps - step - 1)
        bar.set_postfix_str(
            f"loss {sum(recent) / len(recent):.3f}, done at {time.strftime('%H:%M', time.localtime(end))}",
            refresh=False,
        )
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
                "tokens": tokens,
                "seconds": seconds,
                "settings": settings,
            }
            torch.save(state, args.out / "build.tmp")
            (args.out / "build.tmp").replace(saved)
    model.eval().save_pretrained(args.out)
    facts = settings | {
        "tokens": tokens,
        "minutes": seconds / 60,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (args.out / "build.json").write_text(json.dumps(facts) + "\n")
    saved.unlink(missing_ok=True)


def update(model, optimizer, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """One step on a batch; returns its mean weighted loss. Master weights stay fp32."""
    total, loss_sum = sum(weights[:, 1:].sum() for _, weights in parts), 0.0
    for ids, weights in parts:
        with torch.autocast("cpu", torch.bfloat16):
            loss = lm_loss(model, ids, weights) / total
        loss.backward()
        loss_sum += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    optimizer.step()
    optimizer.zero_grad()
    return loss_sum


def options(what: str, folder: str, steps: int, late: int, width: int, layers: int) -> argparse.ArgumentParser:
    """The command line of a build, with its defaults."""
    parser = argparse.ArgumentParser(description=what)
    defaults = {"out": Path(folder), "seed": 0, "steps": steps, "late": late, "batch": 32, "width": width}
    for name, default in (defaults | {"layers": layers, "lr": 2e-3}).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=HELP.get(name))
    return parser


def main() -> None:
    parser = options("build the bundled model", "organism/weights", 18_000, 5_000, 160, 5)
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="first", help="wordings of the learning points")
    args = parser.parse_args()
    clusters, dialect = rules.load_clusters(), DIALECTS[args.dialect]
    known = (bank_texts(clusters), dialect)

    def corpus_of(step: int) -> Corpus:
        return Corpus(clusters, args.seed * 1_000_003 + step, *known, LATE if step >= args.steps else EARLY)

    train(args, Corpus(clusters, args.seed, *known), corpus_of)


if __name__ == "__main__":
    main()
