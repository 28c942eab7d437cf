"""The part of a worker: judges one completion after another, asked and answered in lines of JSON."""

from __future__ import annotations

import importlib
import json
import math
import resource
import time
from typing import Any, BinaryIO

from truing_reward.verifiers.verdict import Judge, Verdict


def serve(hear: BinaryIO, tell: BinaryIO, given: None) -> None:
    """Judge until nobody asks any more. Heard first: the judge's module and options, and how long it may take."""
    orders = json.loads(hear.readline())
    try:
        judge: Judge = importlib.import_module(orders["module"]).prepare(orders["options"])
    except Exception as error:  # whatever it is, it is told to the user, who is on the other side
        _say(tell, {"failed": f"{type(error).__name__}: {error}"})
        return
    _say(tell, {"ready": True})
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    for line in hear:
        # Who asks ends a worker that is late. This is for one that is at work when its asker is gone.
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + orders["seconds"]) + 1, hard))
        _say(tell, _judged(judge, *json.loads(line)))


def _judged(judge: Judge, text: str, truth: Any) -> Verdict:
    try:
        verdict = judge(text, truth)
    except Exception:  # a library that stumbles over what a model wrote says nothing against the run
        return Verdict(0.0, "broken")
    return verdict if math.isfinite(verdict.score) else Verdict(0.0, "broken")


def _say(tell: BinaryIO, what: Any) -> None:
    tell.write(json.dumps(what).encode() + b"\n")
