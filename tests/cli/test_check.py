"""`truing check`: every problem at once, a summary when there is none."""

from __future__ import annotations


def test_a_fine_recipe_is_summed_up(truing):
    said = truing("check", "toy.toml")
    assert said.status == 0
    assert said.out == "toy.toml: fine\n  toy -> toy -> toy, 1 epoch, 2 groups per step\n"
    assert said.err == ""


def test_phases_are_summed_up_one_by_one(truing, here):
    tables = (here / "toy.toml").read_text().partition("\n")[2]
    first, second = (tables.replace("[", f"[phase.{name}.") for name in ("sft", "dpo"))
    (here / "two.toml").write_text(first + second + "steps = 7\n")
    assert truing("check", "two.toml").out.splitlines()[1:] == [
        "  sft: toy -> toy -> toy, 1 epoch, 2 groups per step",
        "  dpo: toy -> toy -> toy, 7 steps, 2 groups per step",
    ]


def test_all_problems_of_all_recipes_are_said_at_once(truing, here):
    (here / "bad.toml").write_text('[loss]\nuse = "toyy"\nscale = 1.0\n[lop]\n')
    said = truing("check", "bad.toml", "toy.toml", "missing.toml")
    assert said.status == 2
    assert said.out.startswith("toy.toml: fine")
    for expected in (
        'bad.toml:2  no loss called "toyy"',
        'did you mean "loop"?',
        "no [source]",
        "missing.toml  cannot read",
    ):
        assert expected in said.err


def test_a_recipe_can_be_checked_with_changes(truing):
    assert truing("check", "toy.toml", "--set", "loop.steps=3").out.endswith("3 steps, 2 groups per step\n")
    said = truing("check", "toy.toml", "--set", "loop.steps=many")
    assert said.status == 2
    assert said.err.startswith("--set loop.steps")


def test_what_check_finds_can_be_read_by_a_machine(truing, here):
    (here / "bad.toml").write_text(
        (here / "toy.toml").read_text().replace('[loss]\nuse = "toy"', '[loss]\nuse = "toyy"')
    )
    said = truing("check", "toy.toml", "bad.toml", "--json")
    fine, bad = said.json
    assert said.status == 2
    assert said.err == ""
    assert fine["fine"] is True
    assert fine["phases"][0]["uses"] == {"source": "toy", "model": "toy", "optimizer": "toy", "loss": "toy"}
    (problem,) = bad["problems"]
    assert (problem["where"], problem["what"]) == ("bad.toml:13", 'no loss called "toyy"')
    assert problem["mend"].startswith('did you mean "toy"?')


def test_blocking_a_plugin_that_is_not_there_is_a_mistake(truing):
    said = truing("check", "toy.toml", "--block", "toys")
    assert said.status == 2
    assert "no plugin called toys" in said.err


def test_blocking_a_plugin_leaves_its_components_out(truing):
    said = truing("check", "toy.toml", "--block", "toy-plugin")
    assert said.status == 2
    assert 'no model called "toy"' in said.err
