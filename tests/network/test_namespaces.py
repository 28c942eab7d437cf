"""Two hosts: a server on one, the learner on the other, and a link that is cut for a while.

    TRUING_CUT_SECONDS=30 python -m pytest tests/network/test_namespaces.py

The hosts are network namespaces, which take root and `ip` to make.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("TRUING_CUT_SECONDS", "0"))
STEPS = 30

pytestmark = [
    pytest.mark.skipif(not SECONDS, reason="set TRUING_CUT_SECONDS to how long the link is to be cut, 30 for example"),
    pytest.mark.skipif(os.name != "posix" or os.getuid() != 0 or not shutil.which("ip"), reason="needs root and ip"),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Hosts:
    """Two namespaces, `far` and `near`, and a cable between them."""

    def __init__(self) -> None:
        self.far, self.near = f"truing-far-{os.getpid()}", f"truing-near-{os.getpid()}"
        ip("netns", "add", self.far)
        ip("netns", "add", self.near)
        ip("link", "add", "cable", "netns", self.far, "type", "veth", "peer", "name", "cable", "netns", self.near)
        for host, address in ((self.far, "10.231.7.1/24"), (self.near, "10.231.7.2/24")):
            ip("-n", host, "address", "add", address, "dev", "cable")
            ip("-n", host, "link", "set", "cable", "up")
            ip("-n", host, "link", "set", "lo", "up")

    def on(self, host: str, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
        whole = ["ip", "netns", "exec", host, sys.executable, "-m", *command]
        return subprocess.Popen(
            whole, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def link(self, state: str) -> None:
        ip("-n", self.far, "link", "set", "cable", state)

    def close(self) -> None:
        ip("netns", "delete", self.far)
        ip("netns", "delete", self.near)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    try:
        made = Hosts()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    yield made
    made.close()


def steps_of(folder: Path) -> int:
    return sum(path.read_bytes().count(b'"type":"StepDone"') for path in folder.glob("*/events.jsonl"))


@pytest.mark.parametrize("way", ["pool", "alone"])
def test_a_link_that_is_cut_holds_a_run_up_and_loses_no_group(way: str, hosts: Hosts, tmp_path: Path) -> None:
    server = hosts.on(hosts.far, "tests.network.serve", "10.231.7.1", "8000")
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    urls = ["http://10.231.7.1:8000"] if way == "pool" else ["alone", "http://10.231.7.1:8000"]
    learner = hosts.on(hosts.near, "tests.network.learner", str(tmp_path), str(STEPS), *urls)
    try:
        while steps_of(tmp_path) < STEPS // 3:
            assert learner.poll() is None, learner.communicate()
            time.sleep(0.05)
        hosts.link("down")
        time.sleep(SECONDS)
        before = steps_of(tmp_path)
        hosts.link("up")
        told, errors = learner.communicate(timeout=120 + 2 * SECONDS)
    finally:
        server.kill()
        server.communicate()
    assert learner.returncode == 0, errors
    came = json.loads(told.splitlines()[-1])
    assert before < STEPS, "it was done before the link was cut"
    assert (came["status"], came["steps"]) == ("finished", list(range(1, STEPS + 1)))
    assert came["ends"] == {"kept": 4 * STEPS}
    assert came["longest"] >= SECONDS - 1
    assert came["oldest"] <= 1
    if way == "pool":
        said = [text.partition(" ")[2][:11] for text in came["notices"] if "10.231" in text]
        assert said == ["is left out", "is back"]
