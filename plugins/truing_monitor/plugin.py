"""What this plugin brings: observers that look at the numbers of training, and a scorer that measures samples."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.plugins import hookimpl
from truing.stage import AnySpec, ObserverSpec
from truing_monitor.menu_policy import Diversity, PolicyMonitor, Smooth

AlarmName = Literal["displacement", "collapse", "length-bias", "overfitting", "gradient-spike"]


class PreferenceMonitor(ObserverSpec, frozen=True, kw_only=True):
    """Raises an alarm when the numbers of a preference loss look wrong; the console and MLflow show it.

    displacement: chosen answers become less likely while the margin grows (arXiv:2410.08847). collapse: chosen and
    rejected ones both become much less likely. length-bias: the implicit reward goes with length on the holdout.
    overfitting: held-out accuracy falls while that of training does not. gradient-spike: a step's gradient is far
    larger than those before.

    What falls must fall beyond its threshold and beyond what chance would do; a holdout, which is the same at every
    look, is seen sooner than batches that differ. An alarm is raised once, and again only after its numbers were well
    for a while. The thresholds are conventions of this project.
    """

    name: ClassVar[str] = "preference-monitor"
    target: ClassVar[str] = "truing_monitor.observer:PreferenceObserver"

    displacement: Annotated[
        float, Meta(gt=0, description="by what share of its first value the chosen log-probability may fall")
    ] = 0.1
    collapse: Annotated[
        float, Meta(gt=0, description="by what share of its first value the log-probability of both sides may fall")
    ] = 0.5
    length_bias: Annotated[
        float, Meta(gt=0, le=1, description="correlation of reward with length that the holdout may reach")
    ] = 0.5
    overfitting: Annotated[float, Meta(gt=0, le=1, description="how far held-out accuracy may fall below its best")] = (
        0.05
    )
    gradient_spike: Annotated[
        float, Meta(gt=1, description="how many times the median of the steps before a gradient's norm may be")
    ] = 10.0
    smooth: Smooth = 20
    stop_on: Annotated[list[AlarmName], Meta(description="alarms that stop the run, with a checkpoint")] = []


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """The monitors."""
    return [PreferenceMonitor, PolicyMonitor, Diversity]
