"""Recipes from strangers: they say what is to be done with parts that are installed, and bring none of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from truing.cli import main
from truing.errors import UserError
from truing.testing import TOY_RECIPE, TOYS, recipe

IMPORTABLE = ["os:system", "os.system", "subprocess:run", "truing_model.causal:CausalLm", "planted", "planted:Thing"]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that could be imported, and leaves a mark when it is."""
    (tmp_path / "planted.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mark"


@pytest.mark.parametrize("table", ["source", "model", "optimizer", "loss"])
@pytest.mark.parametrize("named", IMPORTABLE)
def test_a_part_is_named_and_never_imported_by_its_path(table: str, named: str, planted: Path) -> None:
    with pytest.raises(UserError, match=f'no {table} called "{named}"'):
        recipe(TOY_RECIPE.replace(f'[{table}]\nuse = "toy"', f'[{table}]\nuse = "{named}"'), *TOYS)
    assert not planted.exists()
    assert "planted" not in sys.modules


@pytest.mark.parametrize("option", ["target", "kind", "__class__", "planner", "implementation"])
def test_where_a_part_is_implemented_is_no_option(option: str, planted: Path) -> None:
    with pytest.raises(UserError, match=f'has no option "{option}"'):
        recipe(TOY_RECIPE.replace('[loss]\nuse = "toy"', f'[loss]\nuse = "toy"\n{option} = "planted:Thing"'), *TOYS)
    assert not planted.exists()


@pytest.mark.parametrize(
    "value",
    [
        "__import__('planted')",
        "$(touch mark)",
        "`touch mark`",
        "${oc.env:HOME}",
        "!!python/object:planted.T",
        "{{ 7 * 7 }}",
    ],
)
def test_a_value_is_text_and_is_evaluated_by_nobody(value: str, planted: Path) -> None:
    """As a text where one is asked for, as a mistake where a number is, and from the command line."""
    text = TOY_RECIPE.replace('[model]\nuse = "toy"', f'[model]\nuse = "toy"\ndrop = ["""{value}"""]')
    (phase,) = recipe(text, *TOYS).phases
    assert phase.model.drop == [value]  # pyright: ignore
    for told in (
        {"text": TOY_RECIPE.replace("batch = 2", f'batch = """{value}"""')},
        {"overrides": [f"loop.batch={value}"]},
    ):
        with pytest.raises(UserError):
            recipe(told.get("text", TOY_RECIPE), *TOYS, overrides=told.get("overrides", []))  # pyright: ignore
    assert not planted.exists()


def test_a_recipe_includes_no_other_file(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[loop]\nsteps = 3\n")
    for word in ("include", "extends", "base", "defaults", "plugins", "import"):
        with pytest.raises(UserError, match=f'a recipe has no "{word}"'):
            recipe(f'{word} = "other.toml"\n{TOY_RECIPE}', *TOYS)


def test_a_check_says_whom_a_recipe_asks_with_which_key_and_whose_code_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {
        "source": 'use = "reasoning-gym"',
        "model": 'use = "causal-lm"\npath = "owner/model"\ntrust_remote_code = true',
        "optimizer": 'use = "adamw"',
        "loss": 'use = "grpo"',
        "scorer": 'use = "match"',
        "advantage": 'use = "group-relative"',
        "generator": 'use = "openai"\nurl = "https://stranger.example"\nkey_env = "AWS_SECRET_ACCESS_KEY"',
        "[observer]": 'use = "mlflow"\ntracking_uri = "http://stranger.example:5000"',
    }
    file = tmp_path / "recipe.toml"
    file.write_text("".join(f"[{name}]\n{text}\n" for name, text in tables.items()))
    with pytest.raises(SystemExit):
        main(["check", str(file)])
    said = capsys.readouterr().out
    assert "asks https://stranger.example, with the key in AWS_SECRET_ACCESS_KEY\n" in said
    assert "sends what happens to http://stranger.example:5000\n" in said
    assert "runs code that comes with owner/model\n" in said


def test_a_builder_that_reads_pickles_is_refused() -> None:
    from truing_data.plugin import HuggingFace

    assert any("pickle" in fault.what for fault in HuggingFace(path="pandas").problems())
