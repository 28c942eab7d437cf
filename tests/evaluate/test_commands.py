"""`truing evaluate` as it is called: what it reads, what it says, and what it sends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Call, Write

ROWS: list[dict[str, Any]] = [
    {"pairs": [[0, 1]], "scores": [2.0, 1.0], "metadata": {"subset": "hep-go"}},
    {"pairs": [[0, 1]], "scores": [0.5, 1.0], "metadata": {"subset": "math-prm"}},
]


def test_a_report_says_what_scores_are_worth(write: Write, truing: Call) -> None:
    said = truing("evaluate", write(ROWS), "--by", "subset")
    assert said.status == 0
    assert "scores on 2 pairs" in said.out
    assert "0.500 [0.095, 0.905], ties wrong" in said.out
    assert "by subset" in said.out


def test_what_is_printed_for_programs_is_json_and_nothing_else(write: Write, truing: Call) -> None:
    path = write(ROWS)
    assert truing("evaluate", path, "--json").json["pairs"]["accuracy"]["value"] == 0.5
    both = truing("evaluate", path, path, "--json").json
    assert [report["file"] for report in both["files"]] == [str(path), str(path)]
    assert both["differences"][0]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_run_or_a_phase_stands_for_the_data_it_wrote(write: Write, truing: Call, tmp_path: Path) -> None:
    write(ROWS, "run/score/data/groups.jsonl")
    for place in ("run", "run/score", "run/score/data/groups.jsonl"):
        assert truing("evaluate", tmp_path / place).status == 0
    write(ROWS, "run/again/data/groups.jsonl")
    said = truing("evaluate", tmp_path / "run")
    assert said.status == 2
    assert "2 phases of this run made data" in said.err
    assert str(tmp_path / "run" / "again") in said.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "groups.jsonl:1  not JSON"),
        ("[]", "groups.jsonl:1  this is a list, not an object"),
        ('{"id": "a", "prompt": "?"}', 'groups.jsonl:1  no "completions" in this row'),
        ('{"id": "a", "prompt": "?", "completions": [1]}', "completion 1 is a number, not text"),
        ('{"id": "a", "prompt": "?", "completions": ["b"]}', 'no row has "scores"'),
        ('{"id": "a", "prompt": "?", "completions": ["b"], "scores": [1]}', "nothing to measure scores by"),
        ("", "there are no rows in this file"),
    ],
)
def test_a_file_that_is_no_scored_data_is_told(text: str, said: str, truing: Call, tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    path.write_text(text)
    got = truing("evaluate", path)
    assert got.status == 2
    assert said in got.err


def test_what_is_asked_for_and_not_there_is_told(write: Write, truing: Call, tmp_path: Path) -> None:
    path = write(ROWS)
    assert 'did you mean "subset"?' in truing("evaluate", path, "--by", "subsett").err
    assert "name the key of those with --by" in truing("evaluate", path, "--sections", "kind").err
    plain = write([{"pairs": [[0, 1]], "scores": [1, 2], "kind": "a"}], "plain.jsonl")
    assert "RewardBench's subsets" in truing("evaluate", plain, "--by", "kind", "--sections", "rewardbench").err
    assert "cannot read" in truing("evaluate", tmp_path / "nowhere.jsonl").err


def test_rewardbench_is_a_word(write: Write, truing: Call) -> None:
    said = truing("evaluate", write(ROWS), "--sections", "rewardbench")
    assert "Reasoning  0.143     2" in said.out


def test_conversations_are_read_as_what_is_said_in_them(write: Write, truing: Call) -> None:
    turns = [[{"role": "assistant", "content": "long enough"}], [{"role": "assistant", "content": "no"}]]
    said = truing("evaluate", write([{"completions": turns, "pairs": [[0, 1]], "scores": [1, 0]}]), "--json").json
    assert said["pairs"]["lengths"]["longer_wins"]["value"] == 1.0


@pytest.mark.slow
def test_figures_are_sent_to_mlflow(
    write: Write, truing: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(tmp_path)
    said = truing("evaluate", write(ROWS), "--sections", "rewardbench", "--mlflow")
    assert said.status == 0, said.err
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("truing").experiment_id])
    assert run.info.run_id in said.err
    assert run.data.metrics["pairs/accuracy/value"] == 0.5
    assert run.data.metrics["pairs/by/subset/hep-go/accuracy/value"] == 1.0
    assert run.data.metrics["pairs/sections/mean"] == pytest.approx(164 / 1148)
    pictures = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert pictures == {"reliability.png", "margins.png"}
    labelled = write([{"scores": [1.0, 0.0], "label": [1, 0]}], "labelled.jsonl")
    assert truing("select", labelled, "--mlflow").status == 0
    runs = client.search_runs([run.info.experiment_id])
    (other,) = [it for it in runs if it.info.run_id != run.info.run_id]
    history = client.get_metric_history(other.info.run_id, "choices/best/truth/value")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 1.0)]
    assert truing("measure", labelled, "--mlflow").status == 0
    measured = client.search_runs([run.info.experiment_id], "metrics.`figures/capability/value/value` = 0.5")[0]
    assert "measures.json" in {file.path for file in client.list_artifacts(measured.info.run_id)}
    assert '"table"' in measured.data.tags["mlflow.loggedArtifacts"]
    assert [file.path for file in client.list_artifacts(other.info.run_id)] == ["selection.png"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import truing_evaluate.commands, sys; print([it for it in ('numpy', 'mlflow', 'torch') if it in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
