"""The stages of a recipe as protocols: what the loop asks of each, and what it is handed.

Input and output are asynchronous; mathematics is plain functions that the loop runs in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from truing.events import Event
from truing.fields import Batch, Fields, Text

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer
    from torch.optim.lr_scheduler import LRScheduler


class DataInfo(NamedTuple):
    """What a source found when it was opened. digest: the same whenever the same is read, for a resumed run is held to
    it. groups: per epoch; skipped: unusable rows left out."""

    name: str
    digest: str
    groups: int
    skipped: int
    origin: str


class Source(Protocol):
    """Where groups come from: a file, a hub, a generator of puzzles."""

    async def open(self) -> DataInfo:
        """Read and verify. Raises UserError naming every unusable row, unless the source is told to skip them."""
        ...

    def batches(self, size: int, epoch: int) -> AsyncIterator[Batch]:
        """One pass over the data, `size` groups at a time, the last batch maybe smaller. The order depends on the run's
        seed and on `epoch` alone, so a resumed run sees what it would have seen."""
        ...


class Weights(Protocol):
    """The weights of a model at one version, for whoever samples from it.

    origin: a folder or hub id from which transformers loads its configuration and its tokenizer.
    """

    version: int
    origin: str

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor of the model by the name transformers gives it, adapters merged in."""
        ...

    def reference(self) -> Weights:
        """The weights of the reference that the phase is held to: as it was loaded, whatever was learned or resumed."""
        ...


class Generator(Protocol):
    """Adds completions to prompts."""

    async def generate(self, batch: Batch) -> Batch:
        """The batch with completions for every prompt: their text and tokens, and the log-probability of each.

        What is drawn depends on the weights, on `SEEDS` where the batch has them, and on nothing else: so a run can be
        replayed. What it raises costs the groups it was asked for, once each was asked for alone.
        """
        ...

    async def sync_weights(self, weights: Weights) -> None:
        """Sample from these weights from now on."""
        ...


class Task(NamedTuple):
    """What a rollout is about: its prompt, the answer and whatever else its source knows, and a seed of its own."""

    id: str
    prompt: Text
    answer: Text
    metadata: Mapping[str, Any]
    seed: int


class Said(NamedTuple):
    """A turn of the model. ended_by: the stop string that ended it, which `text` does not have; "": its end token."""

    text: str
    ended_by: str = ""


class Reply(NamedTuple):
    """What a turn is answered. text: what the model reads next. done: there is no next turn. reward: for this turn.
    role: as whom, in a conversation."""

    text: str = ""
    done: bool = False
    reward: float = 0.0
    role: str = "user"


class Episode(Protocol):
    """One rollout in an environment."""

    async def step(self, said: Said) -> Reply:
        """Answer a turn."""
        ...

    async def close(self) -> None:
        """Let go of what it holds. Called once, also where a rollout was cut short or something failed."""
        ...


class Environment(Protocol):
    """What a model speaks to in rollouts of several turns: a tool, a game, a user that is played."""

    async def reset(self, task: Task) -> Episode:
        """Begin a rollout. It may depend on the task alone, so that a run can be replayed. What it or a step raises
        costs the group."""
        ...


class Scorer(Protocol):
    """Adds scores to completions."""

    async def score(self, batch: Batch) -> Batch:
        """The batch with a finite score for every completion. What it raises costs the groups it was asked for, once
        each was asked for alone."""
        ...


class Look(Protocol):
    """What prompts are asked that are kept out of training, and what is made of the answers."""

    def asked(self, prompts: Batch) -> Batch:
        """Prompts as they are to be answered: SAMPLES and TEMPERATURE say what is other than in training."""
        ...

    def numbers(self, batch: Batch) -> Mapping[str, float]:
        """What scored completions come to."""
        ...

    def rows(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        """Those that are kept for people to read: `id`, `prompt`, `completion` and `score` of each."""
        ...


class AdvantageEstimator(Protocol):
    """Turns scores into advantages."""

    def estimate(self, batch: Batch) -> Batch: ...


class Term(NamedTuple):
    """A sum and what it is a mean over.

    The denominator is the count of `per` in the whole step, not in a micro-batch, or a number of the loss's own
    choosing; so the gradient of a step is the same however the batch is cut.
    """

    total: Tensor
    per: Literal["token", "seq", "pair", "group", "step"] | float
    weight: float = 1.0


class LossValue(NamedTuple):
    """terms: what is minimised. metrics: what is only reported, averaged over the step in the same way."""

    terms: Mapping[str, Term]
    metrics: Mapping[str, Term] = {}


class Loss(Protocol):
    """A short function over flat tensors."""

    def __call__(self, batch: Batch, /) -> LossValue: ...


class Memory(Protocol):
    """What a loss knows beside the batch it is handed: how far learning is, or what it saw before.

    What it sees of a step counts once the step is taken, so a step that was stopped leaves nothing behind.
    """

    def begin(self, steps: int) -> None:
        """A phase of so many steps begins."""
        ...

    def learned(self) -> None:
        """A step was taken."""
        ...

    def kept(self) -> Mapping[str, Any]:
        """All that is needed to go on, as JSON has it: in every checkpoint, and beside the model that was made."""
        ...

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        ...


@dataclass(frozen=True)
class DeclaredLoss:
    """A loss that is handed the fields it declared, and nothing else. memory: of a loss that has one."""

    function: Loss
    needs: Fields
    whole_step: bool = False
    by_completion: bool = False
    memory: Memory | None = None

    def __call__(self, batch: Batch) -> LossValue:
        return self.function(batch.only(self.needs))


class Controller(Protocol):
    """Sets from step to step what something costs, by what was measured of it: the KL divergence, for example."""

    def put(self, batch: Batch) -> Batch:
        """The batch with what it costs in this step."""
        ...

    def follow(self, batch: Batch) -> Mapping[str, float]:
        """Look at a batch that was learned from, and set what the next step is to cost; numbers to report of this one.

        It may depend on such batches alone, so that a resumed run goes on as if it had not been interrupted.
        """
        ...

    def kept(self) -> Mapping[str, float]:
        """All that is needed to go on: it is in every checkpoint."""
        ...

    def restore(self, kept: Mapping[str, float]) -> None:
        """Go on from what was kept."""
        ...


class Optimizer(Protocol):
    """How parameters move. clip: the largest norm of a step's gradient, 0 for no limit."""

    clip: float

    def over(self, parameters: Mapping[str, Parameter], steps: int) -> tuple[TorchOptimizer, LRScheduler]:
        """The optimizer of these parameters and its schedule over `steps` steps."""
        ...


class Encoded(NamedTuple):
    """A batch with tokens. dropped: (group id, reason) of groups left out. truncated: how many completions were cut.
    alike: how many pairs were left out of groups that have others, since their two sides are the same tokens."""

    batch: Batch
    dropped: Sequence[tuple[str, str]] = ()
    truncated: int = 0
    alike: int = 0


class Model(Protocol):
    """The one thing that learns. version: optimizer steps taken."""

    version: int

    def encode(self, batch: Batch) -> Encoded:
        """Text to tokens, the chat template applied once."""
        ...

    def annotate(self, batch: Batch, wanted: Fields) -> Batch:
        """Add fields that a forward pass gives, without gradients."""
        ...

    def attach(self, optimizer: Optimizer, steps: int) -> None:
        """Prepare to learn for so many steps."""
        ...

    def learn(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """One optimizer step. Raises Stopped, with nothing changed, when the run was asked to stop meanwhile."""
        ...

    def measure(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """The loss's terms and metrics on a batch, without learning. Raises Stopped."""
        ...

    def weights(self) -> Weights:
        """Its weights as they are now; they are read before the next step is learned."""
        ...

    def checkpoint(self, folder: Path) -> None:
        """Write all that is needed to go on: weights, optimizer, schedule, random state."""
        ...

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        ...

    def export(self, folder: Path) -> Mapping[str, Any]:
        """Write the model for everybody else, and say what it is."""
        ...


class Observer(Protocol):
    """Watches a run: tracking, progress, monitors. It must open, or the run does not start; after that it never stops
    training: what it raises is reported and it is left out."""

    async def open(self) -> None: ...

    async def observe(self, event: Event) -> None: ...

    async def close(self) -> None: ...
