"""A real model's rollouts against generate(), and one plain GRPO step against TRL's, on whatever runs it.

    python -m benchmarks.real MODEL [--save] [--repeats 3] [--length 64] [--steps 2]     (needs requirements-dev.txt)

8 prompts of about a hundred tokens, 16 rollouts of each; the step has 4 x 8 and half the length. `benchmarks.scored
MODEL` compares the ways of reading. The prompts are the bank's, so that nothing has to be downloaded beside the model.
"""

import statistics

from benchmarks.common import ROOT, options, save, spread
from benchmarks.rollouts import measure
from benchmarks.step import Size, our_steps, trl_steps
from common import Shared
from introspection import models
from tasks.bank import load_questions

PROMPTS, GROUP, STEP = 8, 16, (4, 8)


def main() -> None:
    parser = options(__doc__, repeats=3, length=64, steps=2)
    parser.add_argument("model")
    args = parser.parse_args()
    chat, policy = models.load_chat(args.model), models.load_policy(args.model, Shared())
    asked = [chat.first(q.turn) for q in load_questions(ROOT / "data/bank.jsonl")[:PROMPTS]]
    ends = sorted(chat.eos_ids)
    rollouts = measure((policy, asked, GROUP, args.length, ends), args.repeats, warm_ups=0, floors=False)
    del policy
    lengths = [len(ids) for ids in asked]
    print(
        f"{PROMPTS} x {GROUP} rollouts, prompts of {min(lengths)} to {max(lengths)} tokens, up to {args.length} sampled"
    )
    for side, seconds in rollouts["seconds"].items():
        made = rollouts["tokens" if side == "ours" else "tokens_generate"]
        print(f"  {side:10s} {spread(seconds)}, {made / statistics.median(seconds):.0f} tokens/s")
    size = Size(args.model, *STEP, args.length // 2)
    # The first step of each side warms up.
    steps = {side: run(False, args.steps + 1, size)[1:] for side, run in (("ours", our_steps), ("trl", trl_steps))}
    for side, seconds in steps.items():
        print(f"  a plain GRPO step of {STEP[0]} x {STEP[1]}, {side}: {spread(seconds)}")
    if args.save:
        sizes = {"prompts": lengths, "group": GROUP, "length": args.length, "step": [*STEP, size.length]}
        save("real_speed", {"sizes": sizes, "rollouts": rollouts, "steps": steps})


if __name__ == "__main__":
    main()
