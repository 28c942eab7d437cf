"""The menu of generators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from truing.check import PHASE_WEIGHTS
from truing.fields import (
    COMPLETIONS,
    EARNED,
    FINISH,
    GROUP,
    HEARD,
    HEARD_BEFORE,
    IDS,
    LOGPROBS_OLD,
    LOGPROBS_SAMPLED,
    OPPONENT,
    PROMPT_GROUP,
    PROMPT_TOKENS,
    PROMPTS,
    SEQ,
    TOKENS,
    TURNS,
    VERSION,
    Field,
    Fields,
    Message,
    fields,
)
from truing.plugins import hookimpl
from truing.stage import AnySpec, EnvironmentSpec, Fault, GeneratorSpec
from truing_remote import addresses, options

COMPLETED = fields(COMPLETIONS, GROUP, TOKENS, SEQ, FINISH, VERSION)
"""What every generator adds, whatever it knows of log-probabilities."""
SPOKEN: Field[list[list[Message]]] = Field("spoken", "seq")
"""The turns of a completion in plain text, the model's as the assistant's; none where the completion is messages."""
TURNED = fields(TURNS, HEARD, HEARD_BEFORE, EARNED, SPOKEN)
"""What one adds whose completions an environment answers."""
_ANSWERED = "with a [generator.environment]"
TURNS_MOST, HEARD_MOST = 8, 1024


Opponents = Annotated[
    int, Meta(ge=0, description="completions per prompt that the opponent writes, behind those of the policy")
]


def written(opponents: int) -> Fields:
    """What a generator adds that knows of log-probabilities. Where an opponent writes too, not all is written by one
    model, so nothing is said of log-probabilities under it."""
    known = fields(OPPONENT) if opponents else fields(LOGPROBS_OLD)
    return known | fields(LOGPROBS_SAMPLED)


def alone(opponents: int, environment: EnvironmentSpec | None) -> Iterable[Fault]:
    """An opponent where an environment answers: it would need answers of its own."""
    if opponents and environment:
        yield Fault("opponents", "an opponent writes no completions of several turns", "take the environment out")


class CompletionsSpec(GeneratorSpec, frozen=True, kw_only=True):
    """How many completions, how long, and what ends them.

    With an `environment` a completion has several turns: what ends a turn is handed to it, and the model reads its
    answer and goes on, until the environment says that it is over or a limit is met (`FINISH` says which). What it
    says is no token of the completion: nothing is learned of it, and no length counts it.
    """

    offers: ClassVar = dict.fromkeys(TURNED, _ANSWERED)

    samples: Annotated[int, Meta(ge=1, description="completions per prompt")] = 8
    max_new_tokens: Annotated[int, Meta(ge=1, description="longest completion, its end token included")] = 256
    stop: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(description="strings that end a completion; its tokens keep the string, its text does not"),
    ] = []
    environment: Annotated[
        EnvironmentSpec | None, Meta(description="who answers a turn, so that the model goes on after it")
    ] = None
    turns: Annotated[int, Meta(ge=1, description="with an environment: the most turns of a completion")] = TURNS_MOST
    max_heard: Annotated[
        int, Meta(ge=1, description="with an environment: the most tokens of its answers that a completion may hold")
    ] = HEARD_MOST

    def requires(self) -> Fields:
        asked = fields(IDS, PROMPTS, PROMPT_TOKENS, PROMPT_GROUP)
        return asked | self.environment.requires() if self.environment else asked

    def provides(self) -> Fields:
        return COMPLETED | (TURNED if self.environment else fields())

    def problems(self) -> Iterable[Fault]:
        """Limits of turns where there is one."""
        if self.environment is None:
            for option, given, default in (
                ("turns", self.turns, TURNS_MOST),
                ("max_heard", self.max_heard, HEARD_MOST),
            ):
                if given != default:
                    yield Fault(option, "nobody answers: there is no environment", "add [generator.environment]")

    def ends(self) -> Sequence[str]:
        """The strings that end a turn."""
        return [*self.stop, *(self.environment.stops() if self.environment else ())]


class SamplingSpec(CompletionsSpec, frozen=True, kw_only=True):
    """From which distribution a token is drawn. The defaults are the model's own: nothing is cut off."""

    temperature: Annotated[float, Meta(ge=0, description="logits are divided by it; 0: always the likeliest token")] = (
        1.0
    )
    top_k: Annotated[int, Meta(ge=0, description="only the k likeliest tokens; 0: all of them")] = 0
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="only the likeliest tokens that have this probability together")
    ] = 1.0
    min_p: Annotated[
        float, Meta(ge=0, le=1, description="only tokens at least this fraction as likely as the likeliest")
    ] = 0.0

    @property
    def samples_the_model(self) -> bool:
        """Whether the sampling distribution is the model's own, so that both kinds of log-probability are one."""
        return self.temperature == 1 and not self.top_k and self.top_p == 1 and not self.min_p


class Engine(SamplingSpec, frozen=True, kw_only=True):
    """Samples in this process, from a copy of the model that learns.

    A prompt is computed once, and all its completions attend to its keys and values; so is what prompts that follow
    each other begin with alike. A completion that ends gives its seat to the next. Each is drawn from a seed of its
    own: the run's seed, where the phase stands, the prompt's id and the number of the sample. Log-probabilities are
    kept under the model and under the sampling distribution.

    With `opponents`, a prompt gets completions of an opponent, too: of the reference, or of its geometric mixture with
    the policy, token by token (arXiv:2312.00886). They are the last samples of their prompt, and are marked.
    """

    name: ClassVar[str] = "engine"
    target: ClassVar[str] = "truing_generate.engine:Engine"
    shares_device: ClassVar[bool] = True
    """it samples on the device that learns, in turns with it"""
    offers: ClassVar = {**CompletionsSpec.offers, OPPONENT: "with opponents = 1"}

    seats: Annotated[int, Meta(ge=0, description="completions sampled at a time; 0: 64 on a CPU, 256 on a GPU")] = 0
    dtype: Annotated[
        Literal["auto", "fp32", "bf16"],
        Meta(description="type of the weights and of the arithmetic; auto: bf16 where this machine is faster at it"),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Meta(description="where it runs; auto: a GPU if there is one")
    ] = "auto"
    opponents: Opponents = 0
    mixture: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="weight of the reference in the opponent: its log-probabilities of a token are (1 - mixture) "
            "times the policy's and mixture times the reference's, normalised; 1: the reference alone",
        ),
    ] = 1.0
    opponent_temperature: Annotated[
        float | None,
        Meta(
            description="temperature of the opponent; 0: its likeliest token each time, which with mixture = 0 is the "
            "policy's own greedy completion; none: that of the policy",
        ),
    ] = None

    def provides(self) -> Fields:
        # With mixture 0 the opponent is the policy, so all was written by one model.
        own = fields() if self.mixture else fields(LOGPROBS_OLD)
        return SamplingSpec.provides(self) | written(self.opponents) | own

    def problems(self) -> Iterable[Fault]:
        """A mixture, or a temperature, at which nothing is drawn."""
        yield from SamplingSpec.problems(self)
        yield from alone(self.opponents, self.environment)
        mend = "set opponents = 1"
        if self.mixture != 1 and not self.opponents:
            yield Fault("mixture", "nothing is drawn from the mixture: opponents is 0", mend)
        if self.opponent_temperature is not None and not self.opponents:
            yield Fault("opponent_temperature", "nothing is drawn at it: opponents is 0", mend)
        if self.opponent_temperature is not None and self.opponent_temperature < 0:
            yield Fault("opponent_temperature", f"{self.opponent_temperature} is below 0", "0 is the likeliest token")


class ServedSpec(SamplingSpec, frozen=True, kw_only=True):
    """What is said to servers that speak the OpenAI protocol, wherever they are."""

    offers: ClassVar = {
        **CompletionsSpec.offers,
        LOGPROBS_OLD: 'with tokens = "exact" and logprobs = "raw_logprobs"',
        LOGPROBS_SAMPLED: 'with tokens = "exact", logprobs = "processed_logprobs" and a vLLM server started with '
        "--logprobs-mode processed_logprobs",
    }

    model: options.Served = ""
    key_env: options.KeyEnv = ""
    tokens: Annotated[
        Literal["exact", "text"],
        Meta(
            description="exact: token ids of prompt and completion are exchanged; text: text is, and completions are "
            "encoded anew by `tokenizer`, without log-probabilities"
        ),
    ] = "exact"
    tokenizer: Annotated[
        str,
        Meta(
            description='folder or hub id of the tokenizer that encodes completions anew with tokens = "text", and '
            "what an environment says; @PHASE for that of a model that was made",
            extra=PHASE_WEIGHTS,
        ),
    ] = ""
    logprobs: Annotated[
        Literal["raw_logprobs", "processed_logprobs", "none"],
        Meta(
            description="which log-probabilities the server returns, as vLLM's --logprobs-mode has it: raw: of the "
            "model; processed: of the sampling distribution; none: do not ask"
        ),
    ] = "raw_logprobs"
    concurrency: options.Concurrency = 64
    retries: options.Retries = 5
    timeout: options.Timeout = 600.0
    sync: Annotated[
        Literal["none", "vllm-disk"],
        Meta(
            description="none: the server keeps its model; vllm-disk: weights are written to `sync_folder` and a vLLM "
            "server in development mode reloads them from there"
        ),
    ] = "none"
    sync_folder: Annotated[
        str,
        Meta(description='folder that truing writes and the server reads, under the same path; "": in the run folder'),
    ] = ""

    def provides(self) -> Fields:
        given = SamplingSpec.provides(self)
        if self.tokens == "text" or self.logprobs == "none":
            return given
        if self.samples_the_model:
            return given | fields(LOGPROBS_OLD, LOGPROBS_SAMPLED)
        return given | fields(LOGPROBS_OLD if self.logprobs == "raw_logprobs" else LOGPROBS_SAMPLED)

    def problems(self) -> Iterable[Fault]:
        """Options that contradict each other."""
        yield from SamplingSpec.problems(self)
        if self.environment and self.tokens == "text":
            yield Fault("tokens", "turns are joined token by token, and none are exchanged", 'set tokens = "exact"')
        if self.environment and not self.tokenizer:
            yield Fault("tokenizer", "what the environment says is to be encoded", "name the served model's tokenizer")
        if self.tokens == "text" and not self.tokenizer:
            yield Fault("tokens", "completions are to be encoded anew, and no tokenizer is named", "set tokenizer")
        if self.tokens == "exact" and self.tokenizer and not self.environment:
            mend = 'take it out, or set tokens = "text"'
            yield Fault("tokenizer", "with exact tokens nothing is encoded anew", mend)
        if self.temperature == 0 and self.logprobs == "processed_logprobs" and self.tokens == "exact":
            what = "at temperature 0 servers return the model's log-probabilities, whatever their mode"
            yield Fault("logprobs", what, 'set logprobs = "raw_logprobs", or a temperature above 0')
        if self.sync == "none" and self.sync_folder:
            yield Fault("sync_folder", "nothing is written there: sync is none", 'set sync = "vllm-disk"')


class OpenAi(ServedSpec, frozen=True, kw_only=True):
    """A server that speaks the OpenAI protocol: vLLM, SGLang, `transformers serve`.

    Token ids go in and come out, so what is learned from is what was sampled; a server without token ids is refused
    unless `tokens = "text"` says that completions may be encoded anew. A sample's seed comes from the run's seed,
    where the phase stands, the prompt's id and the number of the sample, and is sent with it.
    """

    name: ClassVar[str] = "openai"
    target: ClassVar[str] = "truing_generate.openai:OpenAi"

    url: options.Url = options.HERE

    def problems(self) -> Iterable[Fault]:
        """An address that cannot be or would give a key away, and options that contradict each other."""
        yield from addresses.problems(self.url, self.key_env)
        yield from ServedSpec.problems(self)


class OpenAiPool(ServedSpec, frozen=True, kw_only=True):
    """Several servers that speak the OpenAI protocol and serve the same model; to each is said what to one would be.

    Whichever has a place free takes the next prompt. One that does not answer any more is left out, and the prompts it
    had are asked of the others. It is asked again and again whether it is back, and before it samples anew it gets the
    newest weights. As a sample has a seed of its own, it is the same from any of them.
    """

    name: ClassVar[str] = "openai-pool"
    target: ClassVar[str] = "truing_generate.pool:OpenAiPool"

    urls: Annotated[list[options.Url], Meta(min_length=1, description="where the servers are, each as a url")]
    retries: options.Retries = 2
    check_seconds: Annotated[
        float, Meta(gt=0, description="how often each server is asked whether it is there, and how long that may take")
    ] = 5.0
    wait_seconds: Annotated[float, Meta(gt=0, description="longest wait while none of the servers answers")] = 300.0

    def problems(self) -> Iterable[Fault]:
        """Addresses that cannot be, would give a key away, or are the same; options that contradict each other."""
        for url in self.urls:
            yield from (fault._replace(option="urls") for fault in addresses.problems(url, self.key_env))
        if len({addresses.root(url) for url in self.urls}) < len(self.urls):
            yield Fault("urls", "two of the servers are the same", "name each once")
        yield from ServedSpec.problems(self)


class Scripted(CompletionsSpec, frozen=True, kw_only=True):
    """Says what it is told to say: for testing loops and scorers without a model.

    A prompt that has `answers` under its id gets those in turn, every other prompt the next of `lines`; an opponent's
    completions are the last of their prompt. Tokens are bytes and an end token, unless `tokenizer` says otherwise. It
    can be slow, fail, and fall short on purpose.
    """

    name: ClassVar[str] = "scripted"
    target: ClassVar[str] = "truing_generate.scripted:Scripted"

    answers: Annotated[
        dict[str, Annotated[list[str], Meta(min_length=1)]],
        Meta(description="completions by the id of their prompt, each in turn"),
    ] = {}
    lines: Annotated[list[str], Meta(description="completions for all other prompts, each in turn")] = []
    tokenizer: Annotated[
        str,
        Meta(
            description='folder or hub id of a tokenizer, or @PHASE; "": bytes are tokens 0 to 255, and 256 ends a '
            "completion",
            extra=PHASE_WEIGHTS,
        ),
    ] = ""
    logprob: Annotated[float, Meta(le=0, description="log-probability of every token, of either kind")] = -1.0
    delay: Annotated[float, Meta(ge=0, description="seconds before an answer")] = 0.0
    fail_at: Annotated[int, Meta(ge=0, description="the call of `generate` that fails, counted from 1; 0: none")] = 0
    missing: Annotated[
        int, Meta(ge=0, description="how many of each prompt's `samples` are left out; the opponent leaves out none")
    ] = 0
    opponents: Opponents = 0

    def provides(self) -> Fields:
        return CompletionsSpec.provides(self) | written(self.opponents)

    def problems(self) -> Iterable[Fault]:
        yield from CompletionsSpec.problems(self)
        yield from alone(self.opponents, self.environment)
        if not self.lines and not self.answers:
            yield Fault("lines", "it has nothing to say", 'set lines = ["yes", "no"], or answers by prompt id')
        if self.missing > self.samples:
            what = f"{self.missing} of {self.samples} completions cannot be left out"
            yield Fault("missing", what, f"at most missing = {self.samples}")


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Generators."""
    return [Engine, OpenAi, OpenAiPool, Scripted]
