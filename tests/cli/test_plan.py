"""`truing plan`: what a recipe will take, told before a model is there, and held against what is then taken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.memory import peak_bytes

from truing.plugins import discover
from truing.recipe import Phase, load

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": f"{number} and {number}?", "chosen": str(2 * number), "rejected": "no"} for number in range(20)]
SHAPE = {"width": 32, "layers": 3, "heads": 2}


def table(name: str, use: str, **options: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join([f"[{name}]", f'use = "{use}"' if use else "", *lines, ""])


def phase(model: str, *, start: str = "", loss: str = "dpo", batch: int = 4, **options: Any) -> str:
    columns = {"chosen": "chosen", "rejected": "rejected"}
    return "\n".join(
        [
            table(f"{start}source", "jsonl", path="rows.jsonl", **columns),
            table(f"{start}holdout", "jsonl", path="held.jsonl", **columns),
            table(f"{start}model", model, **options),
            table(f"{start}optimizer", "adamw"),
            table(f"{start}loss", loss),
            table(f"{start}loop", "", batch=batch),
        ]
    )


@pytest.fixture
def written(here: Path) -> Any:
    """Writes a recipe beside its data and gives its name."""
    for name, rows in (("rows", ROWS), ("held", ROWS[:6])):
        (here / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def write(*phases: str) -> str:
        (here / "it.toml").write_text("\n".join(phases), encoding="utf-8")
        return "it.toml"

    return write


@pytest.fixture
def told(truing: Any, written: Any) -> Any:
    """The estimates of the phases of a recipe."""

    def tell(*phases: str) -> list[dict[str, Any]]:
        said = truing("plan", written(*phases), "--json")
        assert said.status == 0, said.err
        return [one["estimate"] for one in said.json["phases"]]

    return tell


def built(here: Path, number: int = 0) -> tuple[Phase, Any]:
    """A phase of the recipe that was written, and its model for real."""
    from truing.bus import Bus
    from truing.check import wanted
    from truing.run import Run

    found = load(here / "it.toml", discover()).phases[number]
    assert found.model
    run = Run("it", here / "run", 0, Bus()).at(found.name, wanted(found))
    return found, found.model.build(run)


def all_rows(found: Phase, model: Any) -> Any:
    """All groups of the data as one step, encoded."""
    assert found.source
    source = found.source.build(model.run)

    async def read() -> Any:
        await source.open()
        return [batch async for batch in source.batches(len(ROWS), 0)]

    (batch,) = anyio.run(read)
    return model.encode(batch).batch


@pytest.mark.parametrize(
    "options",
    [
        SHAPE,
        {**SHAPE, "value_head": True},
        {**SHAPE, "lora_rank": 4},
        {**SHAPE, "lora_rank": 2, "lora_targets": ["q_proj"]},
        {**SHAPE, "lora_rank": 2, "lora_layers": 1},
    ],
    ids=["all weights", "value head", "lora", "lora on one", "lora in the last"],
)
def test_parameters_and_what_the_optimizer_keeps_are_exact(told, here, options):
    (estimate,) = told(phase("scratch-lm", **options))
    found, model = built(here)
    every = list(model.network.parameters())
    learning = [value for value in every if value.requires_grad]
    assert estimate["parameters"] == sum(value.numel() for value in every)
    assert estimate["trained"] == sum(value.numel() for value in learning)
    assert estimate["memory"]["weights"] == sum(value.nbytes for value in every)
    model.attach(found.optimizer.build(model.run), 1)
    for value in learning:
        value.grad = value.detach().clone()
    model.learner.optimizer.step()
    kept = sum(slot.nbytes for state in model.learner.optimizer.state.values() for slot in state.values())
    assert estimate["memory"]["optimizer"] == kept


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed: pip install 'truing[eight-bit]'")
def test_an_optimizer_of_eight_bits_is_planned_at_a_quarter(told):
    recipe = phase("scratch-lm", width=128, layers=2, heads=2)
    whole, eight = (told(recipe.replace('"adamw"', f'"adamw"\nbits = {bits}'))[0]["memory"] for bits in (32, 8))
    # A code for each number, and four bytes for each block of 256.
    assert eight["optimizer"] == pytest.approx(whole["optimizer"] * (1 + 4 / 256) / 4, rel=0.01)


def test_a_copy_of_the_model_is_counted_only_where_it_answers_as_the_reference(told):
    full, lora, sft = (
        told(phase("scratch-lm", loss=loss, **SHAPE, **more))[0]["memory"].get("reference", 0)
        for loss, more in (("dpo", {}), ("dpo", {"lora_rank": 4}), ("simpo", {}))
    )
    assert full > 0
    assert lora == sft == 0
    first = phase("scratch-lm", start="phase.one.", loss="simpo", **SHAPE)
    _, half = told(first, phase("causal-lm", start="phase.two.", loss="dpo", path="@one", reference_dtype="bf16"))
    assert half["memory"]["reference"] == full // 2


def test_a_process_is_told_its_share_of_a_model_that_several_share(told):
    one, four = (
        told("\n".join([phase("scratch-lm", **SHAPE), table("model.parallel", "", kind="fsdp", processes=count)]))[0]
        for count in (1, 4)
    )
    for part in ("weights", "optimizer", "gradients", "reference"):
        assert four["memory"][part] == -(-one["memory"][part] // 4), part
    assert four["memory"]["gathered"] < 2 * one["memory"]["weights"]
    assert any("of the first of 4 processes" in note for note in four["notes"])


def test_a_model_of_an_earlier_phase_has_the_shape_of_that_phase_and_options_of_its_own(told):
    phases = [
        phase("scratch-lm", start="phase.one.", loss="simpo", **SHAPE),
        phase("causal-lm", start="phase.two.", path="@one", lora_rank=4),
        phase("reward-model", start="phase.three.", path="@two", loss="bradley-terry"),
    ]
    one, two, three = told(*phases)
    base = one["parameters"]
    assert one["trained"] == base
    assert two["parameters"] == base + two["trained"]
    assert three["trained"] == three["parameters"] == base + SHAPE["width"]
    assert "vocabulary" not in three["memory"]


def test_tokens_are_those_of_the_data_and_the_parts_add_up(told, here):
    from truing.fields import PROMPT_TOKENS, TOKENS

    (estimate,) = told(phase("scratch-lm", batch=20, **SHAPE))
    encoded = all_rows(*built(here))
    assert estimate["tokens"] == len(encoded[PROMPT_TOKENS]) + len(encoded[TOKENS])
    parts = estimate["memory"]
    assert estimate["peak"] == sum(parts.values()) - min(parts["gradients"], parts["activations"])
    shares = {part: value for part, value in estimate["seconds"].items() if part not in ("step", "phase")}
    assert estimate["seconds"]["step"] == pytest.approx(sum(shares.values()))
    assert estimate["seconds"]["phase"] > estimate["seconds"]["step"]


def test_checkpointed_layers_keep_less_and_take_longer(told):
    shape = {"width": 64, "layers": 8, "heads": 2}
    whole, checkpointed = (
        told(phase("scratch-lm", loss="simpo", batch=20, **shape, **more))[0]
        for more in ({}, {"gradient_checkpointing": True})
    )
    assert checkpointed["memory"]["activations"] < whole["memory"]["activations"] / 3


def test_what_waits_elsewhere_is_counted_there(told, here):
    import torch
    from msgspec.structs import replace

    from truing_model.planning import _opened
    from truing_model.trial import Outline

    told(phase("scratch-lm", loss="simpo", batch=20, **SHAPE))
    found, model = built(here)
    batch = all_rows(found, model)
    kept, away = {}, {}
    for checkpointing in (False, True):
        for offload, tried in ((False, kept), (True, away)):
            spec = replace(found.model, gradient_checkpointing=checkpointing, activation_offload=offload)
            outline = Outline(spec, spec, _opened(spec)[1], frozenset(), torch.device("cpu"))
            tried[checkpointing] = outline.tried(batch, 1000)
        assert kept[checkpointing].away == 0
        # A layer that is computed again is on the GPU meanwhile.
        again = away[checkpointing].layer if checkpointing else 0
        assert away[checkpointing].kept == pytest.approx(again)
        assert away[checkpointing].away == pytest.approx(kept[checkpointing].kept - again)
    assert 0 < away[True].away < away[False].away


def test_what_is_kept_for_the_backward_pass_grows_with_layers_as_it_really_does(told, here):
    """One and two layers stand for all of them."""
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    (estimate,) = told(phase("scratch-lm", loss="simpo", batch=20, width=32, layers=6, heads=2))
    found, model = built(here)
    own = {value.untyped_storage().data_ptr() for value in model.network.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    batch = all_rows(found, model)
    model.network.train()
    with saved_tensors_hooks(keep, lambda value: value):
        outputs = model.network(batch)
    assert outputs
    real = sum(count for place, count in kept.items() if place not in own)
    layer = real / 6
    assert estimate["memory"]["activations"] == pytest.approx(real + layer, rel=0.1)


def test_a_model_that_is_tried_narrower_keeps_about_the_same(told, monkeypatch):
    from truing_model import trial

    shape = phase("scratch-lm", loss="simpo", batch=20, width=256, layers=3, heads=4)
    (whole,) = told(shape)
    monkeypatch.setattr(trial, "_WORK", 1.0)
    (narrower,) = told(shape)
    assert any("4 times narrower" in note for note in narrower["notes"])
    assert narrower["memory"]["activations"] == pytest.approx(whole["memory"]["activations"], rel=0.1)
    assert narrower["parameters"] == whole["parameters"]


def test_a_phase_that_samples_counts_its_generator_and_completions_as_long_as_they_may_be(truing, monkeypatch):
    said = truing("plan", str(ROOT / "recipes" / "tiny" / "grpo.toml"), "--json")
    assert said.status == 0, said.err
    learned, sampled = (one["estimate"] for one in said.json["phases"])
    assert "generator" not in learned["memory"]
    assert sampled["memory"]["generator"] == sampled["memory"]["weights"]
    parts = sampled["memory"]
    cached = parts["KV cache"] + parts["next tokens"]
    learned_in = parts["activations"] + parts["unused heap"] + parts["vocabulary"]
    # The one is given back before the other is asked for.
    gone = min(cached, learned_in) + min(parts["gradients"], parts["activations"])
    assert sampled["peak"] == sum(parts.values()) - gone
    assert cached > 0
    rl = load(ROOT / "recipes" / "tiny" / "grpo.toml", discover()).phases[1]
    generator: Any = rl.generator
    assert sampled["tokens"] > rl.loop.batch * generator.samples * generator.max_new_tokens


def test_of_best_of_n_as_many_completions_are_planned_as_are_kept(truing):
    said = truing("plan", str(ROOT / "recipes" / "tiny" / "raft.toml"), "--json")
    assert said.status == 0, said.err
    rl = load(ROOT / "recipes" / "tiny" / "raft.toml", discover()).phases[1]
    generator: Any = rl.generator
    sampled = said.json["phases"][1]["estimate"]
    longest = rl.loop.batch * generator.max_new_tokens
    assert longest < sampled["tokens"] < generator.samples * longest


def test_what_a_generator_inside_of_another_writes_is_planned(truing):
    said = truing("plan", str(ROOT / "recipes" / "tiny" / "debate.toml"), "--json")
    assert said.status == 0, said.err
    play = load(ROOT / "recipes" / "tiny" / "debate.toml", discover()).phases[2]
    debate: Any = play.generator
    told = next(one["estimate"] for one in said.json["phases"] if one["phase"] == "play")
    # Two statements of this side are learned from, and what the other side says lies between them.
    (piece,) = (note for note in told["notes"] if "largest piece" in note)
    rows, targets = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= tokens| of them)", piece))
    assert targets == play.loop.batch * debate.samples * debate.rounds * debate.generator.max_new_tokens
    assert rows > 2 * targets
    assert told["memory"]["generator"] == told["memory"]["weights"]


def test_what_a_generator_does_not_say_the_one_inside_of_it_does():
    from truing_faults.menu_stages import FaultyGenerator
    from truing_feedback.menu_distill import OwnOrGiven
    from truing_feedback.menu_revise import CritiqueRevise
    from truing_generate.plugin import Engine
    from truing_model.planning_sampling import said
    from truing_workers.plugin import Process

    engine = Engine(samples=3, max_new_tokens=5, seats=7)
    for around in (FaultyGenerator(generator=engine), OwnOrGiven(generator=Process(generator=engine))):
        assert [said(around, option, 0) for option in ("samples", "max_new_tokens", "seats")] == [3, 5, 7]
        assert said(around, "shared_copies", 0) == 2 * isinstance(around, OwnOrGiven)
    revised = CritiqueRevise(generator=Engine(samples=1, max_new_tokens=5), samples=2, rounds=3, keep="all-and-first")
    assert [said(revised, option, 0) for option in ("completions", "samples", "max_new_tokens")] == [8, 2, 5]


def learned_by_ppo(name: str, critic: dict[str, Any] | None, **scorer: str) -> str:
    start = f"phase.{name}."
    lone = [table(f"{start}model.critic", "reward-model", **critic)] if critic else []
    return "\n".join(
        [
            table(f"{start}source", "jsonl", path="rows.jsonl", prompt="prompt", completion="chosen"),
            table(f"{start}model", "policy", path="@sft", lora_rank=2, value_head=critic is None),
            *lone,
            table(f"{start}model.advantage", "gae"),
            table(f"{start}generator", "scripted", lines=["a"], samples=2, max_new_tokens=4),
            table(f"{start}scorer", "reward-model", path="@reward", **scorer),
            table(f"{start}optimizer", "adamw"),
            table(f"{start}loss", "ppo"),
            table(f"{start}loop", "", batch=4, steps=2),
        ]
    )


def test_what_a_critic_and_a_reward_model_hold_as_one_with_the_policy_is_counted_once(told):
    sft, reward, head, critic, apart = told(
        phase("scratch-lm", start="phase.sft.", loss="simpo", **SHAPE),
        phase("reward-model", start="phase.reward.", loss="bradley-terry", path="@sft", lora_rank=4),
        learned_by_ppo("head", None, trunk="@sft"),
        learned_by_ppo("critic", {"path": "@sft", "lora_rank": 4}, trunk="@sft"),
        learned_by_ppo("apart", {"path": "@reward"}),
    )
    base, adapter = 4 * sft["parameters"], 4 * reward["trained"]
    assert [one["memory"]["weights"] - base for one in (head, critic)] == [4 * one["trained"] for one in (head, critic)]
    assert critic["trained"] == head["trained"] - SHAPE["width"] - 1 + reward["trained"]
    assert head["memory"]["scorers"] == critic["memory"]["scorers"] == adapter
    whole = base + 4 * SHAPE["width"]
    assert apart["memory"]["scorers"] == whole
    assert apart["memory"]["weights"] == whole + head["memory"]["weights"] - 4 * (SHAPE["width"] + 1)
    assert critic["memory"]["activations"] > 1.5 * head["memory"]["activations"]
    assert critic["seconds"]["layers"] > head["seconds"]["layers"]


def test_the_model_of_a_judge_is_counted(told):
    judged = learned_by_ppo("rl", None).replace('"reward-model"\npath = "@reward"', '"judge"\nform = "points"')
    judged = judged.replace(
        "[phase.rl.optimizer]", '[phase.rl.scorer.model]\nuse = "causal-lm"\npath = "@sft"\n[phase.rl.optimizer]'
    )
    sft, rl = told(phase("scratch-lm", start="phase.sft.", loss="simpo", **SHAPE), judged)
    assert rl["memory"]["scorers"] == 4 * sft["parameters"]


def test_of_models_that_are_offloaded_the_largest_is_counted_beyond_what_a_step_gives_back(told):
    start = told(
        phase("scratch-lm", start="phase.sft.", loss="simpo", width=128, layers=6, heads=2),
        phase("reward-model", start="phase.reward.", loss="bradley-terry", path="@sft"),
        learned_by_ppo("here", None),
        learned_by_ppo("away", None, offload=True),
    )
    here, away = (each["memory"] for each in start[2:])
    passing = sum(away[part] for part in ("activations", "unused heap", "vocabulary"))
    assert "scorers" not in away
    assert here["scorers"] > passing
    assert away["offloaded"] == here["scorers"] - passing
    assert start[3]["peak"] < start[2]["peak"]


def test_what_is_compiled_for_products_of_bfloat16_is_counted(told):
    single, half = (told(phase("scratch-lm", dtype=dtype, **SHAPE))[0]["memory"] for dtype in ("fp32", "bf16"))
    assert "kernels" not in single
    assert half["kernels"] == 1024 * 280_000


def test_a_named_reference_is_counted_by_its_own_shape(told):
    small, large = ({"width": 32, "layers": layers, "heads": 2} for layers in (1, 5))
    one, two, three = told(
        phase("scratch-lm", start="phase.one.", loss="simpo", **large),
        phase("scratch-lm", start="phase.two.", loss="simpo", **small),
        phase("causal-lm", start="phase.three.", path="@two", reference="@one", lora_rank=4),
    )
    assert three["memory"]["reference"] == 4 * one["parameters"]
    assert three["parameters"] == two["parameters"] + three["trained"]


def test_a_teacher_is_counted_by_its_own_shape(told):
    small, large = ({"width": 32, "layers": layers, "heads": 2} for layers in (1, 5))

    def student(name: str, teacher: str, dtype: str = "auto") -> str:
        more = {"path": "@two", "teacher": teacher, "teacher_dtype": dtype}
        written = phase("student", start=f"phase.{name}.", loss="distill", **more)
        return written.replace('chosen = "chosen"\nrejected = "rejected"', 'completion = "chosen"')

    one, two, *students = told(
        phase("scratch-lm", start="phase.one.", loss="simpo", **large),
        phase("scratch-lm", start="phase.two.", loss="simpo", **small),
        *(student(*each) for each in (("a", "@two"), ("b", "@one"), ("c", "@one", "bf16"))),
    )
    each = [4 * two["parameters"], 4 * one["parameters"], 2 * one["parameters"]]
    assert [student["memory"]["teacher"] for student in students] == each
    assert all(student["parameters"] == two["parameters"] for student in students)
    assert students[1]["seconds"]["teacher"] > 2 * students[0]["seconds"]["teacher"]
    assert students[0]["seconds"]["divergence"] > students[0]["seconds"]["vocabulary"] / 2


def test_plan_says_where_memory_and_time_go(truing, written):
    said = truing("plan", written(phase("scratch-lm", **SHAPE)))
    assert said.status == 0, said.err
    assert said.err == ""
    first = [line.split("  ")[0] for line in said.out.splitlines()]
    for expected in (
        "parameters",
        "peak memory",
        "free memory",
        "tokens per step",
        "steps",
        "time of a step",
        "time in all",
    ):
        assert expected in first
    assert "cpu, fp32, shared rows" in said.out


def test_a_peak_that_does_not_fit_is_said(truing, written, monkeypatch):
    from truing_model import planning

    monkeypatch.setattr(planning, "_free", lambda device: 10_000_000)
    said = truing("plan", written(phase("scratch-lm", **SHAPE)))
    assert said.status == 0
    assert "does not fit" in said.err
    assert "10.0 MB are free here" in said.err
    assert truing("plan", "it.toml", "--json").json["phases"][0]["fits"] is False


def test_a_model_without_a_planner_says_nothing_of_itself(truing):
    said = truing("plan", "toy.toml")
    assert (said.status, said.out) == (0, 'model "toy" says nothing of itself; 4 steps\n')
    assert truing("plan", "toy.toml", "--json").json["phases"][0]["estimate"] is None


def test_a_wrong_recipe_and_wrong_data_are_told_as_ever(truing, written, here):
    recipe = written(phase("scratch-lm", **SHAPE))
    wrong = truing("plan", recipe, "--set", "model.widht=3")
    assert (wrong.status, wrong.out) == (2, "")
    assert 'did you mean "width"?' in wrong.err
    assert truing("plan", "missing.toml").status == 2
    none_left = truing("plan", recipe, "--set", "model.max_tokens=2")
    assert none_left.status == 2
    assert "max_tokens" in none_left.err
    (here / "rows.jsonl").write_text("{}\n")
    assert truing("plan", recipe).status == 2


def test_nothing_is_written(truing, written, here):
    recipe = written(phase("scratch-lm", **SHAPE))
    before = sorted(here.rglob("*"))
    assert truing("plan", recipe).status == 0
    assert sorted(here.rglob("*")) == before


def test_help_imports_nothing_heavy(here):
    looking = "import sys\nfrom truing.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    asked = [
        sys.executable,
        "-c",
        looking + "print([name for name in ('torch', 'transformers') if name in sys.modules])",
    ]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "[]"


def test_a_cache_of_keys_is_as_large_as_transformers_makes_it(here, written):
    import torch
    from transformers import DynamicCache

    from truing_model.planning_sampling import kv_cache

    written(phase("scratch-lm", **SHAPE))
    model = built(here)[1].network.base
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.arange(7)[None], past_key_values=cache)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache(model.config, 7, torch.float32) == real


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "quickstart"])
def test_a_tiny_run_takes_the_memory_that_was_planned(name, tmp_path):
    """Peak memory of the process, imports among it, within a quarter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRUING_CACHE": str(tmp_path)}
    recipe = str(ROOT / "recipes" / "tiny" / f"{name}.toml")
    command = [sys.executable, "-m", "truing"]
    asked = subprocess.run(
        [*command, "plan", recipe, "--json"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    planned = max(phase["estimate"]["peak"] for phase in json.loads(asked.stdout)["phases"])
    used = peak_bytes([*command, "run", recipe, "--quiet"], tmp_path, environment)
    assert planned == pytest.approx(used, rel=0.25)
