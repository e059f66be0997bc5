"""The shapes of a definition: steps, transitions, joins, error policies, the whole.

Decides the names and types of what a document says; never reads one. Made by `definition`,
read by every room above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

__all__ = [
    "BUILT_IN_CLASSES",
    "UNATTENDED",
    "Definition",
    "ErrorPolicy",
    "Foreach",
    "Join",
    "JoinType",
    "On",
    "StepDefinition",
    "StepShape",
    "StepType",
    "Transition",
]


class StepType(StrEnum):
    """What kind of thing a step does."""

    TASK = "task"
    HUMAN_INPUT = "human_input"
    PIPELINE = "pipeline"
    WAIT = "wait"
    EVENT = "event"
    TERMINATE = "terminate"


BUILT_IN_CLASSES: Final[Mapping[StepType, str]] = MappingProxyType(
    {
        StepType.HUMAN_INPUT: "HumanInputStep",
        StepType.PIPELINE: "PipelineStep",
        StepType.WAIT: "WaitStep",
        StepType.EVENT: "EventStep",
        StepType.TERMINATE: "TerminateStep",
    }
)
"""Class names that may stand, or be left out, without a module."""

UNATTENDED: Final = frozenset(
    {StepType.HUMAN_INPUT, StepType.EVENT, StepType.WAIT, StepType.TERMINATE}
)
"""Types that a worker does not work on: the document's retries and timeout do not reach them."""


class JoinType(StrEnum):
    """When a step with several incoming transitions starts; "any" is ``n_of_m`` with n = 1."""

    ALL_TAKEN = "all_taken"
    ALL_SUCCESS = "all_success"
    N_OF_M = "n_of_m"


class On(StrEnum):
    """The end of its source that a transition watches."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Join:
    """
    When a step starts.

    Attributes:
        type: the rule.
        n: how many taken transitions start the step; only for ``n_of_m``.
        cancel_remaining: cancel what then only leads here; only for ``n_of_m``.
    """

    type: JoinType = JoinType.ALL_TAKEN
    n: int = 0
    cancel_remaining: bool = False


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """
    What happens when a step fails: the language's defaults, the document's, the step's own.

    Attributes:
        retries: attempts beyond the first.
        retry_delay: seconds before the first retry.
        backoff: factor from one delay to the next, at least 1.
        max_delay: the longest delay in seconds, before jitter.
        jitter: how much of a delay is added at random, 0 to 1.
        retry_on: exception class names and codes that are retried; None: all.
        give_up_on: those that never are; wins over `retry_on`.
        timeout: seconds that one attempt may take.
        max_worker_losses: how often the step is taken up again after its worker was lost.
        on_failure: ``fail`` or ``continue``; a step's own, never the document's.
    """

    retries: int = 0
    retry_delay: float = 0.0
    backoff: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0
    retry_on: tuple[str, ...] | None = None
    give_up_on: tuple[str, ...] = ()
    timeout: float | None = None
    max_worker_losses: int = 3
    on_failure: str = "fail"


@dataclass(frozen=True, slots=True)
class Foreach:
    """
    One execution per item.

    Attributes:
        items: a list, or a string with a template that gives one.
        max_parallel: how many items run at once; None: all.
        tolerated_failures: how many items may fail before the step does.
        n: the step is done when so many items succeeded; None: when all ended.
    """

    items: Any
    max_parallel: int | None = None
    tolerated_failures: int = 0
    n: int | None = None


@dataclass(frozen=True, slots=True)
class StepDefinition:
    """
    One node, as LANGUAGE section 2 names its keys; absent keys have their defaults.

    Attributes:
        position: its index in the document's ``steps``.
        module, step_class: where its class is; None for the built-in of its type.
        name: for people; the id if absent.
        inputs: None if absent, which is not the same as ``{}``.
        outputs: the names it promises; None if it declares nothing.
        policy: the merged error handling.
    """

    id: str
    type: StepType
    position: int
    module: str | None
    step_class: str | None
    name: str
    description: str
    tags: tuple[str, ...]
    inputs: dict[str, Any] | None
    config: dict[str, Any]
    outputs: tuple[str, ...] | None
    policy: ErrorPolicy
    join: Join
    routing: str
    foreach: Foreach | None
    cancels: tuple[str, ...]
    concurrency_key: str | None
    queue: str | None
    priority: int | None
    rate_limit: str | None
    pipeline: str | None
    wait: bool = True


@dataclass(frozen=True, slots=True)
class StepShape:
    """
    What a step's class says of itself by its `Input` and `Output` models.

    Attributes:
        inputs: names that it knows; None if it takes any.
        required: those of them that it cannot do without.
        outputs: names that it gives; None if only `work` knows.
    """

    inputs: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """
    One edge.

    Attributes:
        index: its place in the document's ``flow.transitions``.
        condition: the JSON value as written; ``"always"`` if absent.
    """

    index: int
    source: str
    target: str
    on: On
    condition: Any
    name: str | None


@dataclass(frozen=True, slots=True)
class Definition:
    """
    A whole document whose structure is sound.

    Attributes:
        on_failure: ``fail_fast`` or ``run_independent``.
        run_timeout: seconds, or None.
        document: the JSON value as parsed.
        text: its compact JSON, keys in the order of the document.
        content_hash: SHA-256 of its compact JSON with sorted keys, in hex: its identity.
        transitions_key: ``transitions``, or the deprecated ``paths``; for pointers.
    """

    slug: str
    name: str
    description: str
    version: str
    tags: tuple[str, ...]
    parameters: dict[str, Any]
    input_schema: dict[str, Any] | bool | None
    steps: tuple[StepDefinition, ...]
    start_at: str
    transitions: tuple[Transition, ...]
    outputs: dict[str, Any] | None
    on_failure: str
    run_timeout: float | None
    max_concurrent_runs: int | None
    policies: tuple[dict[str, Any], ...]
    metadata: dict[str, Any]
    language: int
    document: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)
    content_hash: str
    transitions_key: str = "transitions"
    _by_id: dict[str, StepDefinition] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {step.id: step for step in self.steps})

    def step(self, step_id: str) -> StepDefinition:
        """Return the step with this id; KeyError if there is none."""
        return self._by_id[step_id]

    def transition_pointer(self, index: int) -> str:
        """Return the JSON pointer of a transition."""
        return f"/flow/{self.transitions_key}/{index}"
