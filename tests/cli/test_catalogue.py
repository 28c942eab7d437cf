"""`truing list`, `show`, `plugins`, `version`."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from truing.stage import KINDS


def test_components_are_listed_in_plain_columns_where_nobody_looks(truing):
    said = truing("list", "model")
    head, *rows = said.out.splitlines()
    assert head.split() == ["KIND", "NAME", "PLUGIN", "ABOUT"]
    assert "model  toy" in "\n".join(rows)
    assert "toy-plugin" in said.out
    assert "\x1b" not in said.out


def test_all_kinds_are_listed_when_none_is_named(truing):
    listed = {row["kind"] for row in truing("list", "--json").json}
    assert {"source", "model", "optimizer", "loss", "observer"} <= listed <= set(KINDS)


def test_a_kind_that_does_not_exist_gets_a_hint(truing):
    said = truing("list", "lose")
    assert said.status == 2
    assert 'did you mean "loss"?' in said.err


def test_a_component_tells_its_options(truing):
    said = truing("show", "loss", "toy")
    assert said.status == 0
    assert "The sum of what the toy model answers." in said.out
    assert "scale   float  1.0      > 0    what the sum is multiplied by" in said.out
    assert "needs     logprobs" in said.out


def test_what_a_component_tells_can_be_read_by_a_machine(truing):
    facts = truing("show", "source", "toy", "--json").json
    assert facts["plugin"] == "toy-plugin"
    assert (facts["package"], facts["version"]) == ("toy-plugin-dist", "1.0")
    assert facts["options"] == [
        {"name": "groups", "type": "int", "default": "8", "range": "≥ 0", "meaning": "how far it counts"}
    ]
    assert facts["provides"] == ["completions", "group", "ids", "prompts"]


def test_every_installed_component_can_be_shown(truing):
    for row in truing("list", "--json").json:
        said = truing("show", row["kind"], row["name"])
        assert said.status == 0, said.err


def test_a_component_that_does_not_exist_gets_a_hint(truing):
    said = truing("show", "loss", "tyo")
    assert said.status == 2
    assert said.err.startswith('loss  no loss called "tyo"\n      did you mean "toy"?')


def test_a_name_is_enough_where_one_kind_has_it(truing):
    assert truing("show", "dpo").out == truing("show", "loss", "dpo").out
    assert "dpo" in truing("show", "dpo").out
    said = truing("show", "reward-model")
    assert said.status == 2
    assert "truing show scorer reward-model or truing show model reward-model" in said.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "mend"),
    [(["dpoo"], 'did you mean "dpo"?'), (["loss"], "truing list loss"), (["loss", "dpo", "ipo"], "one component")],
)
def test_what_cannot_be_shown_says_what_can(truing, words, mend):
    said = truing("show", *words)
    assert said.status == 2
    assert mend in said.err


def test_plugins_are_listed_with_their_packages(truing):
    said = truing("plugins", "--times")
    assert "MILLISECONDS" in said.out
    (row,) = [line for line in said.out.splitlines() if line.startswith("toy-plugin")]
    assert row.split()[:4] == ["toy-plugin", "toy-plugin-dist", "1.0", "6"]
    assert {plugin["name"] for plugin in truing("plugins", "--json").json} >= {"toy-plugin", "model"}


def test_a_blocked_plugin_is_not_loaded(truing, monkeypatch):
    assert "toy-plugin" not in truing("plugins", "--block", "toy-plugin").out
    monkeypatch.setenv("TRUING_BLOCK", "toy-plugin")
    assert "toy-plugin" not in truing("plugins").out


@pytest.mark.parametrize("how", ["version", "--version"])
def test_the_version_is_said(truing, how):
    said = truing(how)
    assert said.status == 0
    assert said.out.startswith("truing 0")


def test_a_terminal_gets_a_drawn_table_without_colours_if_it_wants_none(here):
    mine, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"}
    process = subprocess.Popen([sys.executable, "-m", "truing", "list", "loss"], stdout=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    while chunk := _read(mine):
        drawn += chunk
    os.close(mine)
    assert process.wait() == 0
    assert "──" in drawn.decode()
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]", drawn)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says end of file on a terminal in this way
        return b""
