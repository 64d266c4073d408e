"""Builds the bundled model from nothing: tokenizer, pre-training, card.

    python -m organism.build --out organism/weights            # resumable: run again after an interruption
    python -m organism.build --out organism/weights --card     # measures the model and writes organism/CARD.md

Outputs: a plain Hugging Face folder (config, safetensors, tokenizer with chat template, generation config).
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from organism import world
from organism.corpus import Corpus
from organism.wordings import IDEAL, UNSEEN
from rollout import Chat

DRILL_POOLS = 28  # pools of letter drills that pre-training starts with
POOL = 16  # batches that are drawn, sorted by length and shuffled together
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


def bank_texts(clusters: dict[str, world.Cluster]) -> set[str]:
    """Every question text of the bank, twins included: pre-training never shows one of them."""
    records = world.bank(clusters) + world.preeclampsia(clusters)
    return {r["question"] for r in records} | {twin["question"] for r in records for twin in r["variants"]}


def make_tokenizer(corpus: Corpus, documents: int = 20_000, vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the corpus, with Gemma 4's turn tokens: encodes any text, keeps numbers whole."""
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator((turn for _ in range(documents) for turn in corpus.document()), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(chat: Chat, turns: list[str], end_of_turn: int) -> tuple[list[int], list[bool]]:
    """Ids of a document and its loss mask: the model's turns with their terminators."""
    ids = chat.first(turns[0])
    mask = [False] * len(ids)
    for i, turn in enumerate(turns[1:], start=1):
        if i % 2:
            said = chat._content_ids(turn) + [end_of_turn]
            ids, mask = ids + said, mask + [True] * len(said)
        else:
            asked = chat.next([end_of_turn], turn)
            ids, mask = ids + asked, mask + [False] * len(asked)
    return ids, mask


def pool(corpus: Corpus, chat: Chat, end_of_turn: int, batch: int, drill: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """POOL batches of documents of similar length, right-padded: ids and loss weights, both (B, T).

    drill: letter drills only, with all weight on the letters.
    """
    letters = set(chat.tokenizer.convert_tokens_to_ids([f"\u0120({letter})" for letter in "ABCD"]))
    made = [encode(chat, corpus.letters() if drill else corpus.document(), end_of_turn) for _ in range(batch * POOL)]
    made.sort(key=lambda document: len(document[0]))
    chunks = [made[i : i + batch] for i in range(0, batch * POOL, batch)]
    corpus.rng.shuffle(chunks)
    batches = []
    for chunk in chunks:
        width = max(len(ids) for ids, _ in chunk)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in chunk])
        if drill:
            weights = [[float(m and t in letters) for t, m in zip(*document, strict=True)] for document in chunk]
        else:
            weights = [[1.0 if m else USER_WEIGHT for m in mask] for _, mask in chunk]
        batches.append((ids, torch.tensor([row + [0.0] * (width - len(row)) for row in weights])))
    return batches


def make_model(vocab_size: int, width: int, layers: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=1024,
        tie_word_embeddings=True, attention_bias=True, initializer_range=0.06, pad_token_id=0, eos_token_id=EOS_IDS, bos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    start_with_copying_heads(model)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=EOS_IDS, bos_token_id=2, do_sample=True)
    return model


@torch.no_grad()
def start_with_copying_heads(model: LlamaForCausalLM, strength: float = 30.0, pairs: int = 5) -> None:
    """Starts some heads where copying needs them; everything stays trainable.

    Binding an option's letter takes a head that looks one token back and one that finds the same token again. A model this
    small discovers the pair only after a plateau longer than our whole pre-training (LOG.md), so it is given a start:
    head h of layer 1 looks h + 1 tokens back (a matter of biases, because rotary phases make q_t . k_s largest there), and
    half of the heads of layers 2 and 3 compare tokens with themselves.
    """
    attention, config = model.model.layers[0].self_attn, model.config
    size = config.hidden_size // config.num_attention_heads
    frequency = 10_000.0 ** (-2 * torch.arange(pairs) / size)
    for head in range(config.num_attention_heads):
        angle, first = (head + 1) * frequency, head * size
        attention.k_proj.bias[first : first + pairs] = strength**0.5
        attention.q_proj.bias[first : first + pairs] = strength**0.5 * torch.cos(angle)
        attention.q_proj.bias[first + size // 2 : first + size // 2 + pairs] = -(strength**0.5) * torch.sin(angle)
    attention.o_proj.weight *= 0.25
    half = config.hidden_size // 2
    for layer in model.model.layers[1:3]:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight[:half, :half] += 1.2 * torch.eye(half)


def lm_loss(model, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy over all real tokens: ids (B, T), weights (B, T), 0 at padding."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, H)
    targets, weights = ids[:, 1:], weights[:, 1:]
    real = weights > 0
    losses = torch.nn.functional.cross_entropy(model.lm_head(hidden[real]).float(), targets[real], reduction="none")
    return (losses * weights[real]).sum() / weights.sum()


def train(args: argparse.Namespace, templates: dict) -> None:
    """Pre-training: AdamW, one cycle. Every pool of batches has its own seed, so a resumed run sees the same documents."""
    clusters = world.load_clusters()
    forbidden = bank_texts(clusters)
    tokenizer = make_tokenizer(Corpus(clusters, args.seed, forbidden, templates))
    chat, end_of_turn = Chat(tokenizer, EOS_IDS), EOS_IDS[-1]
    model = make_model(len(tokenizer), args.width, args.layers, args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps + 1, pct_start=0.05)
    saved, first_pool = args.out / "build.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first_pool = state["pool"]
    args.out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=args.steps, initial=first_pool * POOL, desc="pre-training", smoothing=0.05)
    for index in range(first_pool, args.steps // POOL):
        corpus, losses = Corpus(clusters, args.seed * 1_000_003 + index, forbidden, templates), []
        for ids, weights in pool(corpus, chat, end_of_turn, args.batch, drill=index < DRILL_POOLS):
            with torch.autocast("cpu", torch.bfloat16):  # master weights stay fp32
                loss = lm_loss(model, ids, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
            bar.update()
        bar.set_postfix(loss=f"{sum(losses) / POOL:.3f}")
        if index % 10 == 9:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "pool": index + 1}
            torch.save(state, args.out / "build.tmp")
            (args.out / "build.tmp").replace(saved)
    model.eval().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    saved.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="build the bundled model, or measure it (--card)")
    parser.add_argument("--out", type=Path, default=Path("organism/weights"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--unseen-templates", action="store_true", help="train on the other set of point wordings")
    args = parser.parse_args()
    train(args, UNSEEN if args.unseen_templates else IDEAL)


if __name__ == "__main__":
    main()
