"""The menu of what works in actors of Ray, which needs no Ray."""

from __future__ import annotations

from typing import Any

from truing.testing import check_imports
from truing_generate.plugin import Engine, Scripted
from truing_ray.plugin import RayGenerator, RayScorer
from truing_reward.menu_verifiers import Match


def test_a_recipe_that_names_ray_is_checked_without_it() -> None:
    check_imports("truing_ray.plugin")
    inside: Any = Scripted(lines=["1"])
    assert RayGenerator(generator=inside, actors=2).samples == inside.samples
    assert [fault.option for fault in RayScorer(scorer=RayScorer(scorer=Match())).problems()] == ["scorer"]
    assert [fault.option for fault in RayGenerator(generator=Engine(device="cpu"), gpus=1).problems()] == ["gpus"]
