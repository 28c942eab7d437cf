"""The MLflow observer against a real store: what arrives, what arrives once, and what happens when nothing answers."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from truing import events
from truing.bus import Bus
from truing.errors import UserError
from truing.journal import Journal
from truing.recipe import Phase, Recipe
from truing.run import Run
from truing_mlflow import observer as timing, words
from truing_mlflow.observer import MlflowObserver
from truing_mlflow.plugin import Mlflow

NAN = math.nan


class Scene:
    """A run of events that were made up: a folder, a journal, and what is told to MLflow of them."""

    def __init__(self, root: Path) -> None:
        phases = [Phase(name=name, loop=_loop()) for name in ("sft", "dpo")]
        self.recipe = Recipe("tiny", 7, phases, [], text='name = "tiny"\ntracking_uri = "http://me:pass@host:1"\n')
        self.uri = f"sqlite:///{root / 'mlflow.db'}"
        self.journal = Journal.create(root / "runs", self.recipe, {"truing": "0.1"})
        self.notices: list[str] = []

    def options(self, **options: Any) -> Mlflow:
        return Mlflow(**{"tracking_uri": self.uri, "system_metrics": False, **options})

    def live(self, happened: list[events.Event], resumed: bool = False, **options: Any) -> None:
        """Let an observer hear these events while they are published."""

        async def play() -> None:
            bus = Bus(start=self.journal.count(), keep=self.journal.record)
            run = Run("tiny", self.journal.folder, 7, bus, resumed=resumed)
            watching = MlflowObserver(self.options(**options), run)
            await watching.open()
            with bus.subscribe(events.Event) as heard, bus.subscribe(events.Notice) as notices:
                for event in happened:
                    bus.publish(event)
                    await watching.observe(heard.receive_nowait())
                await watching.close()
                bus.close()
                self.notices += [notice.text async for notice in notices]

        anyio.run(play)

    def write(self, happened: list[events.Event]) -> None:
        """Put events into the journal with nobody watching."""
        bus = Bus(start=self.journal.count(), keep=self.journal.record)
        for event in happened:
            bus.publish(event)

    def track(self, **options: Any) -> None:
        """What `truing track` does."""

        async def send() -> None:
            watching = MlflowObserver(self.options(**options), Run("tiny", self.journal.folder, 7, Bus(), resumed=True))
            await watching.open()
            await watching.close()

        anyio.run(send)

    def ledger(self) -> dict[str, Any]:
        return json.loads((self.journal.folder / "mlflow.json").read_text())

    def client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.uri)

    def history(self, phase: str, key: str) -> list[tuple[int, float]]:
        """The points of a metric, by step."""
        ids = self.ledger()["ids"]
        points = self.client().get_metric_history(ids["phases"].get(phase, ids["run"]), key)
        return sorted((point.step, point.value) for point in points)


def _loop() -> Any:
    from truing.recipe import Loop

    return Loop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database, made once: its first making takes seconds."""
    import warnings

    root = tmp_path_factory.mktemp("store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_experiment_by_name("truing")
    return root / "mlflow.db"


@pytest.fixture
def scene(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(timing, "INTERVAL", 0.0)
    (tmp_path / "mlflow.db").write_bytes(store.read_bytes())
    return Scene(tmp_path)


def started(phases: tuple[str, ...] = ("sft", "dpo"), resumed: bool = False) -> events.RunStarted:
    return events.RunStarted(
        name="tiny",
        folder="/runs/tiny",
        digest="abc123",
        phases=list(phases),
        versions={"truing": "0.1", "torch": "2.11"},
        commit="c0ffee",
        resumed=resumed,
    )


def step(number: int, phase: str = "sft", **metrics: float) -> events.StepDone:
    return events.StepDone(phase=phase, step=number, steps=9, epoch=0, metrics={"loss": 1 / number, **metrics})


def phase(name: str, happened: list[events.Event], start: int = 0, **options: Any) -> list[events.Event]:
    opened = events.DataOpened(
        phase=name, role="source", name="toy", digest="d" * 64, groups=12, skipped=1, origin="https://me:pass@host/toy"
    )
    return [opened, events.PhaseStarted(phase=name, options=options, steps=9, start=start), *happened]


def model(root: Path, name: str) -> events.ModelSaved:
    folder = root / name / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    facts = {"architecture": "LlamaForCausalLM", "parameters": 135, "precision": {"weights": "bf16"}}
    return events.ModelSaved(phase=name, path=str(folder), facts=facts)


def ended(status: str = "finished", reason: str = "") -> events.RunEnded:
    return events.RunEnded(status=status, reason=reason)


def whole_run(root: Path) -> list[events.Event]:
    look = events.Evaluated(phase="sft", step=2, metrics={"loss": 0.25})
    dropped = events.GroupDropped(phase="sft", id="g1", reason="too long")
    holdout = events.DataOpened(
        phase="sft", role="holdout", name="h", digest="h1", groups=2, skipped=0, origin="h.jsonl"
    )
    first = [holdout, step(1, margin=NAN), dropped, dropped, step(2, **{"gradient[all]": 2.0}), look]
    return [
        started(),
        *phase("sft", first, **{"loss.beta": 0.1, "source.url": "http://me:pass@host/x", "source.hub_token": "hush"}),
        model(root, "sft"),
        events.PhaseEnded(phase="sft", status="finished"),
        *phase("dpo", [step(1, "dpo")], **{"model.path": "@sft", "model.long": "x" * 7000}),
        events.PhaseEnded(phase="dpo", status="failed"),
        ended("failed", "RunFailed: no more"),
    ]


def test_a_run_arrives_with_its_phases_nested_and_everything_it_said(scene: Scene, tmp_path: Path) -> None:
    scene.live(whole_run(tmp_path), tags={"team": "blue"})
    client, ids = scene.client(), scene.ledger()["ids"]
    parent, sft, dpo = (client.get_run(run) for run in (ids["run"], ids["phases"]["sft"], ids["phases"]["dpo"]))

    assert (parent.info.run_name, parent.info.status) == ("tiny", "FAILED")
    assert (sft.info.run_name, sft.info.status) == ("sft", "FINISHED")
    assert (dpo.info.run_name, dpo.info.status) == ("dpo", "FAILED")
    assert sft.data.tags["mlflow.parentRunId"] == dpo.data.tags["mlflow.parentRunId"] == parent.info.run_id
    tags = parent.data.tags
    assert (tags["truing.digest"], tags["mlflow.source.git.commit"], tags["team"]) == ("abc123", "c0ffee", "blue")
    assert tags["truing.version.torch"] == "2.11"
    assert tags["truing.ended"] == "failed RunFailed: no more"
    assert "truing resume /runs/tiny" in tags["mlflow.note.content"]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"recipe.toml", "resolved.toml"}

    assert sft.data.params["loss.beta"] == "0.1"
    assert parent.data.params == {"seed": "7"}
    assert len(dpo.data.params["model.long"]) == words.PARAM_LENGTH
    assert dpo.data.params["model.long"].endswith("(cut, 7000 characters)")

    assert scene.history("sft", "loss") == [(1, 1.0), (2, 0.5)]
    assert scene.history("sft", "gradient_all_") == [(2, 2.0)]
    assert scene.history("sft", "holdout/loss") == [(2, 0.25)]
    assert scene.history("dpo", "loss") == [(1, 1.0)]
    assert math.isnan(scene.history("sft", "margin")[0][1])
    assert sft.data.tags["truing.dropped"] == "1"
    assert scene.notices == []


def test_data_arrive_as_inputs_of_training_and_of_evaluation(scene: Scene, tmp_path: Path) -> None:
    scene.live(whole_run(tmp_path))
    inputs = scene.client().get_run(scene.ledger()["ids"]["phases"]["sft"]).inputs.dataset_inputs
    found = {entry.tags[0].value: entry.dataset for entry in inputs}
    assert set(found) == {"training", "evaluation"}
    assert (found["training"].name, found["training"].digest) == ("toy", "d" * 36)
    assert json.loads(found["training"].profile) == {"num_rows": 12, "skipped_rows": 1}
    assert [column["name"] for column in json.loads(found["training"].schema)["mlflow_colspec"]] == [
        "prompt",
        "completions",
    ]
    assert json.loads(found["evaluation"].source) == {"uri": "h.jsonl"}


def test_a_model_is_logged_with_its_signature_and_none_of_its_weights(scene: Scene, tmp_path: Path) -> None:
    from mlflow.models import Model

    scene.live(whole_run(tmp_path))
    client, ids = scene.client(), scene.ledger()["ids"]
    logged = client.get_logged_model(ids["models"]["sft"])
    assert (logged.name, logged.status.value, logged.source_run_id) == ("tiny-sft", "READY", ids["phases"]["sft"])
    assert logged.tags["truing.path"] == str(tmp_path / "sft" / "model")
    assert len(logged.tags["truing.digest"]) == 64
    assert logged.params["precision"] == '{"weights":"bf16"}'
    assert [(m.key, m.value) for m in logged.metrics] == [("holdout/loss", 0.25)]
    assert [file.path for file in client.list_logged_model_artifacts(logged.model_id)] == ["MLmodel"]
    loaded = Model.load(str(Path(logged.artifact_location.removeprefix("file://")) / "MLmodel"))
    assert loaded.signature is not None
    assert loaded.signature.inputs.input_names() == ["messages"]
    assert loaded.signature.outputs.input_names() == ["text"]
    assert client.get_run(ids["phases"]["sft"]).outputs.model_outputs[0].model_id == logged.model_id


def test_the_model_of_the_best_look_has_the_numbers_of_that_look(scene: Scene, tmp_path: Path) -> None:
    looks = [events.Evaluated(phase="sft", step=at, metrics={"loss": 1.0 / at}) for at in (1, 2, 3)]
    saved = msgspec.structs.replace(model(tmp_path, "sft"), step=2)
    scene.live([started(), *phase("sft", [step(1), step(2), step(3), *looks]), saved, ended()])
    client, ids = scene.client(), scene.ledger()["ids"]
    logged = client.get_logged_model(ids["models"]["sft"])
    assert [(metric.value, metric.step) for metric in logged.metrics] == [(0.5, 2)]
    assert client.get_run(ids["phases"]["sft"]).outputs.model_outputs[0].step == 2


def test_a_model_can_be_copied_or_left_out(scene: Scene, tmp_path: Path) -> None:
    saved = [started(("",)), *phase("", []), model(tmp_path, "x")]
    saved[-1] = events.ModelSaved(phase="", path=str(tmp_path / "x" / "model"), facts={})
    scene.live([*saved, ended()], log_model="copy")
    client = scene.client()
    copied = scene.ledger()["ids"]["models"][""]
    files = {file.path for file in client.list_logged_model_artifacts(copied, "model")}
    assert files == {"model/model.safetensors"}
    other = Scene(tmp_path / "other")
    other.uri = scene.uri
    other.live([*saved, ended()], log_model="none")
    assert other.ledger()["ids"]["models"] == {}


def alarm(step: int, phase: str = "dpo", name: str = "collapse") -> events.Alarm:
    return events.Alarm(phase=phase, step=step, name=name, text=f"both [fell] by {step}", values={})


def test_an_alarm_is_a_tag_of_its_phase_and_a_line_of_the_runs_description(scene: Scene) -> None:
    scene.live([started(), *phase("dpo", [step(1, "dpo"), alarm(3), alarm(5), alarm(6, name="length-bias")])])
    client, ids = scene.client(), scene.ledger()["ids"]
    tags = client.get_run(ids["phases"]["dpo"]).data.tags
    assert tags["truing.alarm.collapse"] == "step 5: both [fell] by 5"
    assert tags["truing.alarm.length-bias"] == "step 6: both [fell] by 6"
    note = client.get_run(ids["run"]).data.tags["mlflow.note.content"]
    assert "- **collapse** in dpo, step 3: both [fell] by 3\n" in note
    assert note.index("step 3") < note.index("step 5") < note.index("step 6") < note.index("truing resume")


def test_samples_are_a_table_that_grows_from_look_to_look(scene: Scene, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
    row = {"id": "a", "prompt": "2+2=", "completion": "4", "score": 1.0}
    looks = [
        events.SamplesShown(phase="sft", step=0, rows=[row]),
        events.SamplesShown(phase="sft", step=2, rows=[{**row, "prompt": chat, "score": 0.0}, row]),
    ]
    scene.live([started(), *phase("sft", [step(1), *looks])])
    run = scene.ledger()["ids"]["phases"]["sft"]
    place = scene.client().download_artifacts(run, "samples.json", str(tmp_path))
    assert json.loads(Path(place).read_text()) == {
        "columns": ["step", "id", "prompt", "completion", "score"],
        "data": [
            [0, "a", "2+2=", "4", 1.0],
            [2, "a", "user: 2+2\n\nassistant: 4", "4", 0.0],
            [2, "a", "2+2=", "4", 1.0],
        ],
    }
    tags = scene.client().get_run(run).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "samples.json", "type": "table"}]


def test_alarms_stay_in_the_description_after_a_resume(scene: Scene) -> None:
    scene.live([started(("",)), *phase("", [step(1, ""), alarm(1, "")]), ended("interrupted")])
    scene.live([started(("",), resumed=True), *phase("", [step(2, "")], start=1), ended()], resumed=True)
    tags = scene.client().get_run(scene.ledger()["ids"]["run"]).data.tags
    assert "- **collapse**, step 1: both [fell] by 1\n" in tags["mlflow.note.content"]
    assert tags["truing.alarm.collapse"] == "step 1: both [fell] by 1"


def test_a_recipe_of_one_phase_is_one_run(scene: Scene) -> None:
    scene.live([started(("",)), *phase("", [step(1, "")]), events.PhaseEnded(phase="", status="finished"), ended()])
    ids = scene.ledger()["ids"]
    assert ids["phases"] == {}
    assert len(scene.client().search_runs([ids["experiment"]])) == 1
    assert scene.history("", "loss") == [(1, 1.0)]
    assert scene.client().get_run(ids["run"]).info.status == "FINISHED"


def test_a_resumed_run_goes_on_in_the_same_run_without_doubled_points(scene: Scene) -> None:
    first = [started(), *phase("sft", [step(n) for n in (1, 2, 3)], **{"loss.beta": 0.1})]
    look = events.Evaluated(phase="sft", step=0, metrics={"loss": 2.0})
    scene.live([*first, look, events.PhaseEnded(phase="sft", status="interrupted"), ended("interrupted")])
    before = scene.ledger()["ids"]
    assert scene.client().get_run(before["run"]).info.status == "KILLED"
    again = phase("sft", [look, *(step(n) for n in (2, 3, 4))], start=1, **{"loss.beta": 0.1})
    scene.live([started(resumed=True), *again], resumed=True)
    assert scene.ledger()["ids"] == before
    assert {scene.client().get_run(run).info.status for run in (before["run"], before["phases"]["sft"])} == {"RUNNING"}
    assert scene.history("sft", "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert scene.history("sft", "holdout/loss") == [(0, 2.0)]
    assert len(scene.client().get_run(before["phases"]["sft"]).inputs.dataset_inputs) == 1


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, fail: Callable[[str], bool]) -> Iterator[None]:
    """Let calls of the client fail as those to a dead server do."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    with monkeypatch.context() as patch:
        for name in (
            "log_batch",
            "log_inputs",
            "set_terminated",
            "update_run",
            "set_tag",
            "log_text",
            "log_dict",
            "create_run",
        ):
            work = getattr(MlflowClient, name)

            def call(*arguments: Any, _work: Any = work, _name: str = name, **keywords: Any) -> Any:
                if fail(_name):
                    raise MlflowException("http://me:pass@host: Connection refused by it")
                return _work(*arguments, **keywords)

            patch.setattr(MlflowClient, name, call)
        yield


def test_what_a_dead_server_missed_is_sent_by_track(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = whole_run(tmp_path)
    steps = 0

    def dies(name: str) -> bool:
        nonlocal steps
        steps += name == "log_inputs"
        return steps > 1

    with failing(monkeypatch, dies):
        scene.live(happened)
    assert len(scene.notices) == 2
    assert "connection refused" in scene.notices[0]
    assert "truing track" in scene.notices[1]
    assert "pass" not in " ".join(scene.notices)
    scene.track()
    twin = Scene(tmp_path / "twin")
    twin.uri = scene.uri
    twin.live(happened)
    for name in ("sft", "dpo"):
        for key in ("loss", "holdout/loss", "epoch"):
            assert scene.history(name, key) == twin.history(name, key)
    statuses = [
        [client.get_run(run).info.status for run in (ids["run"], *ids["phases"].values())]
        for client, ids in ((scene.client(), scene.ledger()["ids"]), (twin.client(), twin.ledger()["ids"]))
    ]
    assert statuses[0] == statuses[1] == ["FAILED", "FINISHED", "FAILED"]


def test_a_server_that_comes_back_catches_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FIRST_PAUSE", 0.0)
    calls = 0

    def absent(name: str) -> bool:
        nonlocal calls
        calls += 1
        return 4 <= calls <= 6

    looks = [events.Evaluated(phase="sft", step=n, metrics={"loss": float(n)}) for n in range(30)]
    with failing(monkeypatch, absent):
        scene.live([started(), *phase("sft", looks), ended()])
    assert scene.history("sft", "holdout/loss") == [(n, float(n)) for n in range(30)]
    assert len(scene.notices) == 1


def test_an_answer_that_was_lost_makes_no_second_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    make, lost = MlflowClient.create_run, []

    def make_and_lose(self: Any, *arguments: Any, **keywords: Any) -> Any:
        made = make(self, *arguments, **keywords)
        if len(lost) < 1 and arguments[3] == "sft":
            lost.append(made)
            raise MlflowException("timed out")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", make_and_lose)
    scene.live([started(), *phase("sft", [step(1)]), ended()])
    assert lost
    scene.track()
    ids = scene.ledger()["ids"]
    assert ids["phases"]["sft"] == lost[0].info.run_id
    assert len(scene.client().search_runs([ids["experiment"]])) == 2


def test_a_slow_server_delays_the_end_no_longer_than_the_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CLOSE_SECONDS", 0.5)
    monkeypatch.setattr(timing, "LIVE_SECONDS", 0.1)

    def slow(name: str) -> bool:
        if name == "log_batch":
            time.sleep(2.0)
        return False

    scene.write([started()])
    with failing(monkeypatch, slow):
        start = time.monotonic()
        scene.live([ended()])
        assert time.monotonic() - start < 1.5
    assert any("truing track" in text for text in scene.notices)


def test_a_dead_server_is_told_before_the_run_begins_and_within_seconds(scene: Scene) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(UserError, match="connection refused") as refused:
        scene.live([], tracking_uri=f"http://me:pass@127.0.0.1:{port}")
    assert time.monotonic() - start < 10
    assert refused.value.problems[0].mend.startswith("start the server")
    assert "pass" not in str(refused.value)


def test_a_server_that_accepts_and_never_answers_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        start = time.monotonic()
        with pytest.raises(UserError, match="did not answer"):
            scene.live([], tracking_uri=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert time.monotonic() - start < 10


def test_a_database_that_cannot_be_opened_is_told(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "occupied").mkdir()
    with pytest.raises(UserError, match="cannot use sqlite"):
        scene.live([], tracking_uri=f"sqlite:///{tmp_path / 'occupied'}")


def test_a_store_that_does_not_know_the_run_is_told(scene: Scene, tmp_path: Path, store: Path) -> None:
    scene.live([started(), ended()])
    (tmp_path / "other.db").write_bytes(store.read_bytes())
    with pytest.raises(UserError, match="does not know the run"):
        scene.track(tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")


def test_track_says_when_it_cannot_send(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write([started(), *phase("sft", [step(1)]), ended()])
    with failing(monkeypatch, lambda name: name == "log_inputs"), pytest.raises(UserError, match="connection refused"):
        scene.track()


def test_a_torn_last_line_is_left_until_it_is_whole(scene: Scene) -> None:
    scene.write([started(), *phase("sft", [step(1)])])
    line = events.encode(step(2))
    file = scene.journal.folder / "events.jsonl"
    file.write_bytes(file.read_bytes() + line[:20])
    scene.track()
    assert scene.history("sft", "loss") == [(1, 1.0)]
    scene.write([step(3)])
    scene.track()
    assert scene.history("sft", "loss") == [(1, 1.0), (3, 1 / 3)]


def test_a_run_that_was_killed_is_shown_as_killed_by_track(scene: Scene) -> None:
    scene.write([started(), *phase("sft", [step(1)])])
    scene.track()
    ids = scene.ledger()["ids"]
    assert {scene.client().get_run(run).info.status for run in (ids["run"], ids["phases"]["sft"])} == {"KILLED"}


def test_ten_thousand_points_take_few_calls(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write([started(), *phase("sft", [step(n, **{f"m{k}": float(k) for k in range(18)}) for n in range(1, 501)])])
    calls: list[str] = []
    with failing(monkeypatch, lambda name: bool(calls.append(name))):
        start = time.monotonic()
        scene.track()
    print(f"10,000 points in {time.monotonic() - start:.2f} s, {calls.count('log_batch')} calls of log_batch")
    assert calls.count("log_batch") <= 25
    assert len(scene.history("sft", "m17")) == 500


def test_nothing_secret_is_sent(scene: Scene, tmp_path: Path) -> None:
    scene.live(whole_run(tmp_path))
    client, ids = scene.client(), scene.ledger()["ids"]
    sent = [str(client.get_run(run).to_dictionary()) for run in (ids["run"], *ids["phases"].values())]
    sent.append(Path(client.download_artifacts(ids["run"], "recipe.toml", str(tmp_path))).read_text())
    everything = " ".join(sent)
    assert "me:pass" not in everything
    assert "hush" not in everything


def test_nothing_is_printed(scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scene.live(whole_run(tmp_path), system_metrics=True)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_the_machine_is_measured(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    looks: list[events.Event] = [events.Evaluated(phase="sft", step=n, metrics={"loss": 0.0}) for n in range(40)]
    scene.live([started(), *phase("sft", looks)], system_metrics=True)
    assert any(
        key.startswith("system/cpu") for key in scene.client().get_run(scene.ledger()["ids"]["run"]).data.metrics
    )


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        ("loss", "loss"),
        ("loss/sft", "loss/sft"),
        ("a[0]=1%", "a_0__1_"),
        ("//a//b/", "a/b"),
        ("../a", "_/a"),
        ("é:x y", "é:x y"),
    ],
)
def test_a_metric_has_a_name_that_mlflow_takes(key: str, taken: str) -> None:
    assert words.name(key) == taken


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/x", "/tmp/x", "sqlite://x.db"])
def test_an_address_that_mlflow_would_refuse_is_a_problem_of_the_recipe(uri: str) -> None:
    assert [fault.option for fault in Mlflow(tracking_uri=uri).problems()] == ["tracking_uri"]


@pytest.mark.parametrize("uri", ["", "http://host:5000", "sqlite:///a.db", "databricks", "postgresql://h/x"])
def test_an_address_that_mlflow_takes_is_none(uri: str) -> None:
    assert list(Mlflow(tracking_uri=uri, tags={"a.b/c": "d"}).problems()) == []
