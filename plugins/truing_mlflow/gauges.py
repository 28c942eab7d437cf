"""How busy the machine is, told to a run of MLflow every few seconds by MLflow's own monitor."""

from __future__ import annotations

import warnings

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SECONDS = 5


class Gauges:
    """Measures from now on, in a thread of its own. It gives up on the first failed call; then make a new one."""

    def __init__(self, run: str, uri: str) -> None:
        with warnings.catch_warnings():
            # The library for NVIDIA's GPUs warns of its own name.
            warnings.simplefilter("ignore", FutureWarning)
            self._monitor = SystemMetricsMonitor(run, sampling_interval=SECONDS, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def stop(self) -> None:
        """End the thread and send what it has measured."""
        self._monitor.finish()
