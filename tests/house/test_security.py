"""What no file of truing does: unpickle, run text as code, let a model's code run unasked, or listen to the network.

`docs/explain/security.md` says why, and what else is promised; `tests/security` tries to break it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_house import KERNEL_FILES, PLUGIN_FILES, imports, name_of

FILES = [*KERNEL_FILES, *PLUGIN_FILES]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml"}
LOADERS = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle", "torch.hub.load"}
RUNNERS = {"eval", "exec", "__import__", "os.system", "os.popen"}
SANDBOXED = {"plugins/truing_reward/verifiers/unit_tests.py", "plugins/truing_reward/verifiers/remote.py"}
"""Where text is run as code, inside of the sandbox."""
LISTENERS = {"listen", "create_server", "start_server", "serve_forever", "HTTPServer", "ThreadingHTTPServer"}
LISTENERS |= {"create_tcp_listener", "create_unix_listener"}
AMONG_THEMSELVES = {"plugins/truing_model/team.py"}
"""Where processes of one run find each other: on the loopback where they are on one machine, and only with a token."""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file, by what is called: `torch.load`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_unpickled_and_no_text_is_run(path: Path) -> None:
    for found in imports(path, path.parent.name):
        assert found.module.partition(".")[0] not in UNPICKLERS, f"{name_of(path)}:{found.line} imports {found.module}"
    for called, node in calls(path):
        where = f"{name_of(path)}:{node.lineno} calls {called}"
        assert called not in LOADERS, where
        assert called not in RUNNERS or name_of(path) in SANDBOXED, where
        fine = called.rpartition(".")[2] not in LISTENERS or name_of(path) in AMONG_THEMSELVES
        assert fine, f"{where}: truing asks servers and is none"
        for keyword in node.keywords:
            assert keyword.arg not in ("shell", "allow_pickle"), f"{where} with {keyword.arg}"


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=name_of)
def test_whoever_loads_a_model_says_whether_its_code_may_run(path: Path) -> None:
    """Left open, transformers asks whoever sits at the terminal."""
    for called, node in calls(path):
        if called.rpartition(".")[2] in ("from_pretrained", "from_config"):
            said = any(keyword.arg in ("trust_remote_code", None) for keyword in node.keywords)
            assert said, f"{name_of(path)}:{node.lineno}: {called} without trust_remote_code"
