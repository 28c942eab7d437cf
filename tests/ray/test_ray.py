"""Generators and scorers in actors of Ray do what they do in this process, and lose nothing when an actor dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from truing.testing import check_spec, recipe, run_recipe
from truing_generate.plugin import Engine
from truing_ray.plugin import RayGenerator, RayScorer
from truing_reward.menu_verifiers import Match

pytest.importorskip("torch")
pytest.importorskip("ray", reason="Ray is not installed: pip install 'truing[ray]'")

import torch
from tests.generate.conftest import Told, asked
from tests.generate.samplers import FromFolder
from tests.kernel.scenes import ends
from tests.kernel.test_engine_in_the_loop import text as text
from tests.model.conftest import write_family
from tests.workers.stages import Numbers, Obedient

import ray
from truing.errors import RunFailed, UserError
from truing.events import GroupTrained
from truing.fields import SEEDS, TOKENS, VERSION, Batch
from truing.groups import plain
from truing_ray.crew import Crew

OPTIONS: dict[str, Any] = {"dtype": "fp32", "device": "cpu", "max_new_tokens": 8, "samples": 3}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(tmp_path)
    yield made
    for end in reversed(made.run.ends):
        end()


def prompts(*names: str) -> Batch:
    return asked(*(name or "some words" for name in names), ids=list(names)).put(SEEDS, list(range(len(names))))


def kill(crew: Crew, at: int = 0) -> None:
    number = ray.get(crew.members[at].actor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(number, signal.SIGKILL)


def same(one: Batch, other: Batch) -> bool:
    """Every token and text the same; log-probabilities but for what arithmetic of smaller batches comes to."""
    assert set(one) == set(other)
    for key in one:
        if key.dtype == "float32":
            torch.testing.assert_close(one[key], other[key], atol=1e-5, rtol=0)
        else:
            assert plain(one[key]) == plain(other[key]), key
    return True


def test_they_keep_their_promises() -> None:
    check_spec(RayGenerator, generator=Engine(**OPTIONS))
    check_spec(RayScorer, scorer=Match())


def test_the_same_seeds_give_the_same_samples_as_in_this_process_also_from_new_weights_and_after_a_death(
    told: Told, tmp_path: Path
) -> None:
    write_family("llama", tmp_path / "model")
    here: Any = Engine(**OPTIONS).build(told.run)
    there: Any = RayGenerator(generator=Engine(**OPTIONS), actors=2, cpus=0.5).build(told.run)
    batch = prompts("hello", "you", "over there")

    async def go() -> None:
        for version, scaled in ((0, 1.0), (1, 1.5)):
            weights = FromFolder(tmp_path / "model", version, scaled)
            await here.sync_weights(weights)
            await there.sync_weights(weights)
            assert same(await here.generate(batch), await there.generate(batch))
        kill(there.crew, 1)
        assert same(await here.generate(batch), await there.generate(batch))

    anyio.run(go)
    assert there.crew.deaths == 1
    assert any("started again with the newest weights, 1 of 8 restarts" in text for text in told.notices)


def test_what_is_raised_there_is_raised_here_and_what_died_too_often_ends_the_run(told: Told) -> None:
    made: Any = RayGenerator(generator=Obedient(), restarts=1, cpus=0.5).build(told.run)

    async def go() -> None:
        await made.sync_weights(Numbers(0, 3.0, held_to=7.0))
        answer = await made.generate(prompts("a", "b"))
        assert answer[TOKENS].reshape(-1, 4)[:, 1:].tolist() == [[0, 6, 14]] * 2
        with pytest.raises(UserError, match="it is wrong"):
            await made.generate(prompts("user"))
        with pytest.raises(RunFailed, match="KeyError: 'odd'"):
            await made.generate(prompts("odd"))
        (told.run.folder / "hold").touch()
        with anyio.move_on_after(1.0):
            await made.generate(prompts("a"))
        (told.run.folder / "hold").unlink()
        # Nobody waits for that any more, and it is in nobody's way; what comes behind new weights is sampled from them.
        await made.sync_weights(Numbers(1, 4.0))
        assert (await made.generate(prompts("c")))[VERSION].tolist() == [1]
        kill(made.crew)
        assert (await made.generate(prompts("d")))[TOKENS].tolist()[1:] == [1, 8, 14]
        kill(made.crew)
        with pytest.raises(UserError, match=r"they died 2 times, and restarts = 1 allows no more"):
            await made.generate(prompts("e"))

    anyio.run(partial(_within, go))
    assert told.notices.count("asked for c") == 1


async def _within(work: Any) -> None:
    with anyio.fail_after(300):
        await work()


def test_a_run_in_actors_learns_what_it_learns_in_one_process(text: str, tmp_path: Path) -> None:
    apart = text.replace(
        '[generator]\nuse = "engine"', '[generator]\nuse = "ray"\ncpus = 0.5\n[generator.generator]\nuse = "engine"'
    )
    apart = apart.replace(
        '[scorer]\nuse = "match"', '[scorer]\nuse = "ray"\ncpus = 0.5\n[scorer.scorer]\nuse = "match"'
    )
    apart, here = (each.replace("staleness = 2", "staleness = 0") for each in (apart, text))
    runs = [run_recipe(recipe(each), tmp_path / name) for name, each in (("apart", apart), ("here", here))]
    assert all(run.status == "finished" for run in runs)
    assert set(ends(runs[0].events).values()) == {"kept"}
    learned = [[(it.ids, it.digest) for it in run.events if isinstance(it, GroupTrained)] for run in runs]
    assert learned[0] == learned[1]
