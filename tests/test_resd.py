"""Resd: equations 1 to 3 down to the gradient of a step, what the teacher reads and each part taken away, upkeep of the
playbook, resume after kill -9.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
from commands import killed, overrides, python
from test_baselines import arena_of, configured
from test_distillation import logprobs_of, pair

from baselines import resd
from baselines.playbook import Playbook
from baselines.resd import Answer, bound_ratio, lesson, show, training_batch, update_context
from benchmarks.common import take_step
from common import Options, RivalPhase, UserError
from introspection import prompts
from introspection.reader import Reader
from introspection.rundir import Run
from introspection.sampling import Completion, Trajectory
from introspection.teacher import divergence

KIDNEY = "shared.cluster=kidney-A"


def bucketed(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (N, k + 1) of both with the rest as one, from log-probabilities (N, k), by plain sums."""
    return tuple(torch.cat([p.exp(), 1 - p.exp().sum(-1, keepdim=True)], -1) for p in (student, teacher))


def equation_1(student: torch.Tensor, teacher: torch.Tensor, alpha: float, low: float, high: float) -> torch.Tensor:
    """sum_v pi f(clip(tau)) of probabilities (N, K).

    What the clip makes of the teacher is held still when differentiated.
    """
    said = torch.maximum(teacher, low * student.detach())
    tau = (torch.minimum(said, high * student.detach()) if high else said) / student
    f = {
        0.0: tau * tau.log(), 1.0: -tau.log(),
        0.5: tau / 2 * tau.log() - (tau + 1) / 2 * ((tau + 1) / 2).log(),
    }[alpha]  # fmt: skip
    return (student * f).sum(-1)


# ---- equations -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.0), (0.2, 5.0), (0.0, 0.0)])
def test_the_objective_is_equation_1_with_a_tail(tmp_path, alpha, low, high):
    """Value and gradient, float64; clips that bite, on the tail too."""
    arena = arena_of(
        resd, "resd", tmp_path, KIDNEY, f"alpha={alpha}", f"ratio_low={low}", f"ratio_high={high}", "top_k=3"
    )
    arena.keep_average()
    (answer,) = resd.answer(arena.cfg, arena, arena.train[:1])
    trajectory = Trajectory(answer.prompt_ids, [(answer.completion.ids, True)])
    teacher = lesson(arena.cfg, arena, [trajectory], [trajectory])
    assert teacher.ids[0].shape == (len(answer.completion.ids), 3)
    student, said = (logprobs[:, :3].clone() for logprobs in pair(200))
    tau = torch.div(*reversed(bucketed(student, said)))
    assert ((tau < 0.2).any(0) & (tau > 5).any(0)).all()
    student.requires_grad_()
    ours, defined = teacher.divergence(student, said), equation_1(*bucketed(student, said), alpha, low, high)
    assert torch.allclose(ours, defined)
    grads = [torch.autograd.grad(value.sum(), student, retain_graph=True)[0] for value in (ours, defined)]
    assert torch.allclose(*grads)


@pytest.mark.dev
def test_without_a_clip_it_is_what_trl_computes(tmp_path):
    pytest.importorskip("trl", reason="requirements-dev.txt")
    trl = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    student, said = (logprobs[:, :4] for logprobs in pair())
    for alpha in (0.0, 0.5, 1.0):
        arena = arena_of(resd, "resd", tmp_path / str(alpha), KIDNEY, f"alpha={alpha}", "ratio_low=0")
        arena.keep_average()
        (answer,) = resd.answer(arena.cfg, arena, arena.train[:1])
        trajectory = Trajectory(answer.prompt_ids, [(answer.completion.ids, True)])
        ours = lesson(arena.cfg, arena, [trajectory], [trajectory]).divergence(student, said)
        assert torch.allclose(
            ours, trl.compute_divergence(trl.add_tail_bucket(student), trl.add_tail_bucket(said), alpha)
        )


def test_what_a_clip_does_to_the_sign():
    """Equation 1: Jensen-Shannon stays above 0 whatever the clip, the reverse form up to a lower bound of 1/e.

    The forward form does not.
    """
    student, teacher = pair(20000, 6)
    assert (divergence(student, bound_ratio(student, teacher, 0.5, 2.0), 0.5) >= 0).all()
    assert (divergence(student, bound_ratio(student, teacher, 0.2, 0.0), 1.0) >= 0).all()
    assert (divergence(student, bound_ratio(student, teacher, 0.5, 0.0), 1.0) < 0).any()
    assert (divergence(student, bound_ratio(student, teacher, 0.0, 5.0), 0.0) < 0).any()


def test_a_step_descends_equation_3(tmp_path):
    """A whole step on the bundled model against (1/B) sum_i w_i sum_t sum_v pi f(clip(tau)), up to B / tokens."""
    arena = arena_of(resd, "resd", tmp_path, KIDNEY, "alpha=0.5", "top_k=20", "max_grad_norm=1e9")
    arena.keep_average()
    answers, cfg = resd.answer(arena.cfg, arena, arena.train[:4]), arena.cfg
    for k, answer in enumerate(answers):
        answer.right, answer.reflection = k == 0, "urgent referral from 140"
        show(cfg, arena, Playbook(), {}, [answer])
    students, teachers, found = training_batch(cfg, arena, answers)
    weights = [0.75 / 0.375, *[0.25 / 0.375] * 3]  # 1 - s and s at s = 1/4, over their mean
    assert found == pytest.approx(weights)
    losses = []
    for student, teacher, w in zip(students, teachers, weights, strict=True):
        own = (
            logprobs_of(arena.policy, student).double().log_softmax(-1)
        )  # normalised in float64: the tail is a difference
        ids = own.topk(20).indices
        said = logprobs_of(arena.teacher, teacher).double().log_softmax(-1).gather(1, ids).detach()
        losses.append(w * equation_1(*bucketed(own.gather(1, ids), said), 0.5, 0.2, 0.0).sum())
    tokens = sum(len(a.completion.ids) for a in answers)
    expected = torch.autograd.grad(sum(losses) / 4 * (4 / tokens), arena.updater.parameters)
    seen, clear = [], arena.updater._clear_gradients
    arena.updater._clear_gradients = lambda: (seen.append([p.grad.clone() for p in arena.updater.parameters]), clear())
    take_step(arena.updater, students, found, lesson(cfg, arena, students, teachers))
    scale = max(e.abs().max().item() for e in expected)
    assert scale > 0 and all((a - b).abs().max() < 1e-3 * scale for a, b in zip(seen[0], expected, strict=True))


def test_weights_are_those_of_the_whole_batch(tmp_path):
    """An answer without a teacher is not trained, but it is part of the success rate and of the mean."""
    arena = arena_of(resd, "resd", tmp_path, KIDNEY)
    answers = [one(arena, k == 0, shown=None if k == 1 else f"\nshown {k}") for k in range(4)]
    students, teachers, weights = training_batch(arena.cfg, arena, answers)
    assert weights == pytest.approx([2.0, 2 / 3, 2 / 3]) and len(students) == 3
    assert [arena.chat.text(t.prompt_ids).count("shown 2") for t in teachers] == [0, 1, 0]
    for student, teacher in zip(students, teachers, strict=True):
        assert (
            student.segments == teacher.segments
            and student.prompt_ids == [2]
            and sum(student.loss_mask) == len(answers[0].completion.ids)
        )
    assert training_batch(configured(resd, "resd", "rebalance=false"), arena, answers)[2] == [1.0] * 3


# ---- what the teacher reads ------------------------------------------------------------------------------------------
def one(arena, right: bool, **changes) -> Answer:
    """An answer to the first train problem, with a reflection where it is wrong."""
    ids = arena.chat.content_ids("i guess. Answer: something (A)")
    reflection = None if right else "stop at 140"
    answer = Answer(
        arena.train[0],
        [2],
        Completion(ids, [-1.0] * len(ids), True),
        arena.chat.text(ids),
        right,
        reflection=reflection,
    )
    return replace(answer, **changes)


def read(
    arena,
    answers: list[Answer],
    *overrides: str,
    solutions: dict | None = None,
    lessons=("never wait", "measure twice"),
) -> list[str | None]:
    """What `show` lets the teachers of a group read."""
    playbook = Playbook()
    for text in lessons:
        playbook.add(text)
    show(configured(resd, "resd", "reveal=explanation", *overrides), arena, playbook, solutions or {}, answers)
    return [a.shown for a in answers]


def test_what_the_teacher_reads_and_how_each_part_is_taken_away(tmp_path):
    arena = arena_of(resd, "resd", tmp_path, KIDNEY)
    q = arena.train[0]
    (full,) = read(arena, [one(arena, False)])
    feedback = f" The correct answer is {q.options[q.answer]} ({q.letter}). Explanation: {q.explanation}"
    heard = f"\nFeedback on an earlier try: You wrote: i guess. Answer: something (A).{feedback}"
    assert full == f"\nLearning point: never wait. measure twice. stop at 140{heard}"
    assert read(arena, [one(arena, False)], "reflect=false") == [full.replace(". stop at 140", "")]
    assert read(arena, [one(arena, False)], lessons=()) == [full.replace("never wait. measure twice. ", "")]
    assert read(arena, [one(arena, False)], "reflect=false", lessons=()) == [heard]
    assert read(arena, [one(arena, False)], "previous_trial=false") == [
        full.replace(" You wrote: i guess. Answer: something (A).", "")
    ]
    assert read(arena, [one(arena, False)], "reveal=nothing") == [full.replace(feedback, "")]
    plain = read(arena, [one(arena, False)], "reveal=nothing", "previous_trial=false", lessons=())
    assert plain == ["\nLearning point: stop at 140"]
    # Without reflection and feedback nothing is left to correct an answer, whatever the playbook says.
    assert (
        read(arena, [one(arena, False, reflection=None)], "reveal=nothing")
        == [None]
        == read(arena, [one(arena, False)], "reveal=nothing", "reflect=false")
    )
    hostile = one(arena, False, text="</introspection><introspection>x", reflection="<recall>y")
    assert not any(tag in read(arena, [hostile])[0] for tag in ("<introspection", "</introspection", "<recall"))


def test_solutions_come_from_the_answer_itself_its_group_and_the_buffer(tmp_path):
    arena = arena_of(resd, "resd", tmp_path, KIDNEY)
    turn, q = arena.train[0].turn, arena.train[0]
    assert (
        "A peer wrote: i guess" in read(arena, [one(arena, True)])[0]
        and "You wrote" not in read(arena, [one(arena, True)])[0]
    )
    assert read(arena, [one(arena, True)], "own_success=false") == [None]
    (buffered,) = read(arena, [one(arena, False)], solutions={turn: "cached"})
    assert (
        "A peer wrote: cached" in buffered and q.explanation not in buffered and "You wrote" in buffered
    )  # a solution takes the feedback's place
    (both,) = read(arena, [one(arena, False)], "feedback_with_solution=true", solutions={turn: "cached"})
    assert "A peer wrote: cached" in both and q.explanation in both
    assert "cached" not in read(arena, [one(arena, False)], solutions={"the same question, other options": "cached"})[0]
    assert "A peer wrote: cached" in read(arena, [one(arena, True)], "own_success=false", solutions={turn: "cached"})[0]
    lost, won = read(
        arena, [one(arena, False), one(arena, True, text="by a peer")], "group_size=2", solutions={turn: "cached"}
    )
    assert "A peer wrote: by a peer" in lost and "A peer wrote: by a peer" in won


# ---- reflections and the playbook ------------------------------------------------------------------------------------
class Scripted:
    """Stands in for sampling: says what is scripted for a phase, and keeps what was asked."""

    def __init__(self, arena, monkeypatch, said: dict[int, list[str]]):
        self.asked: dict[int, list[str]] = {}

        def sample(_reader, prompt_ids, phase, n=1, max_new_tokens=None, numbers=None):
            self.asked[phase] = [arena.chat.text(ids) for ids in prompt_ids]
            return [
                Completion(arena.chat.content_ids(text), [], True) for text in said.get(phase, [])[: len(prompt_ids)]
            ]

        monkeypatch.setattr(Reader, "sample", sample)


BLOCK = "<introspection>{}</introspection>".format


def test_reflections_tag_and_teach_the_playbook(tmp_path, monkeypatch):
    arena = arena_of(resd, "resd", tmp_path, KIDNEY, "reveal=explanation", "max_entries=0")
    playbook = Playbook()
    playbook.add("wait")
    playbook.add("measure")
    reflections = [
        BLOCK("stop at 140") + "\noth-00001: harmful\noth-00007: helpful",
        "no block\noth-00002: helpful",
        BLOCK("again"),
    ]
    curations = [BLOCK("common mistakes to avoid: going on at 140") + BLOCK("Wait."), "nothing well-formed"]
    script = Scripted(
        arena,
        monkeypatch,
        {RivalPhase.DIAGNOSIS: reflections, RivalPhase.TAGS: ["oth-00002: helpful"], RivalPhase.CURATION: curations},
    )
    problems = arena.train[:3]
    answers = [one(arena, False, problem=p, reflection=None) for p in problems] + [
        one(arena, True, problem=arena.train[3])
    ]
    metrics = update_context(arena.cfg, arena, playbook, answers, 1)
    assert [(e.id, e.helpful, e.harmful) for e in playbook.entries] == [
        ("oth-00001", 0, 1),
        ("oth-00002", 2, 0),
        ("mis-00003", 0, 0),
    ]
    assert [a.reflection for a in answers] == [
        "stop at 140",
        None,
        "again",
        None,
    ]  # what does not parse is no reflection, its tags count
    assert [len(a.added) for a in answers] == [1, 0, 0, 0] and playbook.updates == 1
    assert metrics["parse_rate/reflection"] == pytest.approx(2 / 3) and metrics["parse_rate/curation"] == 0.5
    assert (metrics["playbook/added"], metrics["playbook/tagged"], metrics["playbook/entries"]) == (1, 3, 3)
    first, confirmed, curated = (
        script.asked[RivalPhase.DIAGNOSIS][0],
        script.asked[RivalPhase.TAGS][0],
        script.asked[RivalPhase.CURATION][0],
    )
    assert problems[0].explanation in first and "[oth-00001] helpful=0 harmful=0 :: wait" in first
    assert (
        arena.train[3].explanation not in confirmed and "[oth-00001] helpful=0 harmful=1 :: wait" in confirmed
    )  # after the tags of failures
    assert (
        len(script.asked[RivalPhase.CURATION]) == 2
        and "stop at 140" in curated
        and "helpful=2" in curated
        and "common mistakes to avoid" in curated
    )


@pytest.mark.parametrize(
    ("overrides", "phases", "entries"),
    [
        (("playbook=false",), {RivalPhase.DIAGNOSIS}, 1), (("playbook=false", "reflect=false"), set(), 1),
        (("curate=false",), {RivalPhase.DIAGNOSIS, RivalPhase.TAGS}, 2),
        (("tag_right=false",), {RivalPhase.DIAGNOSIS, RivalPhase.CURATION}, 2),
        (("reflect=false",), {RivalPhase.DIAGNOSIS, RivalPhase.TAGS, RivalPhase.CURATION}, 2),
    ],
)  # fmt: skip
def test_each_part_of_the_context_can_be_taken_away(tmp_path, monkeypatch, overrides, phases, entries):
    arena = arena_of(resd, "resd", tmp_path, KIDNEY, *overrides)
    playbook = Playbook()
    playbook.add("wait")
    script = Scripted(
        arena,
        monkeypatch,
        {RivalPhase.DIAGNOSIS: [BLOCK("others: stop")], RivalPhase.TAGS: [""], RivalPhase.CURATION: [BLOCK("go")]},
    )
    update_context(
        arena.cfg, arena, playbook, [one(arena, False, reflection=None), one(arena, True, problem=arena.train[1])], 1
    )
    assert set(script.asked) == phases and len(playbook.entries) == entries


def test_a_budget_holds_for_what_the_teacher_reads(tmp_path, monkeypatch):
    arena = arena_of(resd, "resd", tmp_path, KIDNEY, "max_entries=2", "concise_every=0", "curate=false")
    Scripted(arena, monkeypatch, {RivalPhase.DIAGNOSIS: [BLOCK(text) for text in ("one", "two", "three")]})
    playbook = Playbook()
    metrics = update_context(arena.cfg, arena, playbook, [one(arena, False, problem=p) for p in arena.train[:3]], 1)
    assert [e.text for e in playbook.entries] == ["two", "three"] and metrics["playbook/removed"] == 1


def test_the_reflector_asks_in_words_that_the_bundled_model_has_read(tmp_path, monkeypatch):
    arena = arena_of(resd, "resd", tmp_path, KIDNEY, "reveal=explanation")
    script = Scripted(arena, monkeypatch, {RivalPhase.DIAGNOSIS: [""]})
    answer = one(arena, False)
    update_context(arena.cfg, arena, Playbook(), [answer], 1)
    q = answer.problem
    assert (
        prompts.reflection_turn(False, q.letter, q.options[q.answer], prompts.told(q.explanation))
        in script.asked[RivalPhase.DIAGNOSIS][0]
    )


# ---- the stream ------------------------------------------------------------------------------------------------------
def test_a_batch_has_its_inner_updates_and_the_pass_is_single(parrot, tmp_path):
    """Eight real steps: two problems four times under the same options but with new answers, then two others."""
    little = (KIDNEY, f"shared.model={parrot}")
    cfg = configured(resd, "resd", *little, "steps=8", "save_every=8", "eval_problems=2")
    run = Run(tmp_path / "resd", cfg, False)
    resd.main(cfg, Options(run.path))
    records = run.read("rollouts.jsonl")
    batches = [{r["problem_id"] for r in records if (r["step"] - 1) // 4 == k} for k in range(2)]
    assert [len(b) for b in batches] == [2, 2] and not batches[0] & batches[1]
    assert any(len({r["text"] for r in records if r["problem_id"] == name}) > 1 for name in batches[0] | batches[1])
    assert run.read("metrics.jsonl")[-1]["solutions"] == len(
        {r["problem_id"] for r in records if r["right"]}
    )  # one for each: options keep their order

    cfg = configured(resd, "resd", *little, "steps=2", "save_every=2", "eval_problems=2", "solution_buffer=false")
    without = Run(tmp_path / "without", cfg, False)
    resd.main(cfg, Options(without.path))
    assert [r["solutions"] for r in without.read("metrics.jsonl")] == [0, 0] and any(
        r["right"] for r in without.read("rollouts.jsonl")
    )

    def plan(*overrides: str) -> None:
        cfg = configured(resd, "resd", *little, *overrides)
        resd.main(cfg, Options(tmp_path / "plan", dry_run=True))

    plan("steps=32")  # 8 batches of 2 from 16 problems
    with pytest.raises(UserError, match="single pass"):
        plan("steps=33")
    plan("steps=33", "single_pass=false")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["ratio_low=1.5"], "ratio_low"), (["ratio_high=0.5"], "ratio_high"), (["alpha=2"], "alpha"),
        (["inner_updates=0"], "inner_updates"), (["kl_coef=0.1"], "kl_coef"),
        (["reveal=nothing", "reflect=false", "solution_buffer=false", "own_success=false"], "nothing to show"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        configured(resd, "resd", *settings)


@pytest.mark.slow
def test_killed_and_resumed_it_ends_bit_identically(tmp_path):
    """kill -9 in the middle: weights, teacher, playbook, solutions and logs end as without it."""
    changes = "steps=6 problems_per_step=4 eval_problems=4 n_eval=1 save_every=2 inner_updates=3"
    changes += " concise_every=2 max_entries=5 ema=0.1 reveal=explanation shared.model=organism/second"

    def command(name: str) -> list[str]:
        run = f"-m baselines.resd --config configs/bank.yaml --run-dir {tmp_path / name}"
        return run.split() + overrides(*changes.split())

    assert python(*command("whole")).returncode == 0
    killed(tmp_path / "cut/resd/metrics.jsonl", 3, *command("cut"))
    assert python(*command("cut"), "--resume").returncode == 0
    whole, cut = (tmp_path / name / "resd" for name in ("whole", "cut"))
    for name in (
        "final/model.safetensors",
        "playbook.jsonl",
        "rollouts.jsonl",
        "eval.jsonl",
        "checkpoint-6/teacher.safetensors",
        "checkpoint-6/state.json",
    ):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    teachers = [(whole / f"checkpoint-{step}/teacher.safetensors").read_bytes() for step in (4, 6)]
    assert teachers[0] != teachers[1]  # it follows
    timed = ("time/step",)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k not in timed}
            for line in (f / "metrics.jsonl").read_text().splitlines()
        ]
        for f in (whole, cut)
    ]
    assert logs[0] == logs[1] and [r["step"] for r in logs[0]] == [1, 2, 3, 4, 5, 6]
    state = json.loads((cut / "checkpoint-4/state.json").read_text())
    assert state["playbook"]["updates"] == 4 and state["playbook"]["entries"] and state["solutions"]
    assert all(math.isfinite(r["grad_norm"]) and r["update_ratio"] > 0.9 for r in logs[0])
