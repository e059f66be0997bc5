"""What `config` may say on the types of steps that iaflow brings along.

Decides keys, types and ranges of the configuration of people, waits, events and terminations;
never looks into that of a task, which belongs to its class. Called by check.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from iaflow.errors import Problem
from iaflow.pipeline.conditions import Otherwise, code_conditions, paths_of
from iaflow.pipeline.definition import MAX_SECONDS, StepType
from iaflow.pipeline.fields import parse_instant
from iaflow.pipeline.forms import Form
from iaflow.pipeline.graph import Node
from iaflow.pipeline.reading import Findings, Reader, clip

__all__ = [
    "ANSWER_KEYS",
    "ASSIGNEE_KEYS",
    "CODES",
    "CONFIG_KEYS",
    "ESCALATION_KEYS",
    "MAX_QUORUM",
    "STATUSES",
    "find_config_problems",
]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "key_conflict": "two keys say the same thing or exclude each other",
        "reject_when_invalid": "reject_when is no condition on the answer alone",
    }
)
"""Codes of the problems with `config`, beside those of reading."""

ANSWER_KEYS: Final = ("_answered_by", "_answered_at", "_answers")
"""Keys that the output of a person's step has beside the fields of its form."""


def find_config_problems(node: Node) -> list[Problem]:
    """Find what is wrong in the `config` of a step; pointers are into the document."""
    step = node.step
    known = CONFIG_KEYS.get(step.type)
    if known is None:
        return []
    findings = Findings()
    if step.module is not None:
        # A class of one's own may be configured as it likes, beside the keys of its type.
        known |= frozenset(step.config)
    config = Reader(step.config, f"/steps/{step.position}/config", findings, known)
    match step.type:
        case StepType.HUMAN_INPUT:
            _read_person(config, node)
        case StepType.WAIT:
            _read_wait(config, node)
        case StepType.EVENT:
            if config.require("name", "the name of the signal"):
                config.word("name")
            _read_expiry(config, node)
        case StepType.TERMINATE:
            if config.require("status", "succeeded or failed"):
                config.one_of("status", STATUSES)
            config.text("message")
    return findings.errors


CONFIG_KEYS: Final[Mapping[StepType, frozenset[str]]] = MappingProxyType(
    {
        StepType.HUMAN_INPUT: frozenset(
            "ui_schema assignees quorum exclude_starter expires_in escalate reminders show"
            " reject_when".split()
        ),
        StepType.PIPELINE: frozenset(),
        StepType.WAIT: frozenset({"seconds", "until"}),
        StepType.EVENT: frozenset({"name", "expires_in"}),
        StepType.TERMINATE: frozenset({"status", "message"}),
    }
)
ASSIGNEE_KEYS: Final = frozenset({"users", "roles"})
ESCALATION_KEYS: Final = frozenset({"after", "assignees"})
MAX_QUORUM: Final = 1_000
STATUSES: Final = ("succeeded", "failed")
"""How a `terminate` may end its run."""


def _read_person(config: Reader, node: Node) -> None:
    quorum = config.whole("quorum", 1, MAX_QUORUM)
    config.flag("exclude_starter")
    _read_expiry(config, node)
    read_assignees(config)
    judge_quorum(config, quorum)
    for index, value in enumerate(config.items("escalate") or ()):
        pointer = f"{config.pointer}/escalate/{index}"
        if not isinstance(value, dict):
            config.findings.refuse("type_wrong", pointer, "an escalation is an object")
            continue
        escalation = Reader(value, pointer, config.findings, ESCALATION_KEYS)
        if escalation.require("after", "seconds"):
            escalation.number("after", 0, MAX_SECONDS, above=True)
        if escalation.require("assignees"):
            read_assignees(escalation)
    for index, value in enumerate(config.items("reminders") or ()):
        if type(value) not in {int, float} or not 0 < value <= MAX_SECONDS:
            pointer = f"{config.pointer}/reminders/{index}"
            message = f"a reminder is a number of seconds, more than 0 and up to {MAX_SECONDS}"
            config.findings.refuse("value_invalid", pointer, message)
    _judge_reject_when(config, node)


def judge_quorum(config: Reader, quorum: int | None) -> None:
    """More people than are named can never answer; how many have a role is not known here."""
    assignees = config.members.get("assignees")
    if quorum is None or not isinstance(assignees, dict) or assignees.get("roles"):
        return
    users = assignees.get("users")
    if isinstance(users, list) and 0 < len(set(map(str, users))) < quorum:
        message = f"{quorum} people are to answer, and {len(set(map(str, users)))} are named"
        config.refuse("value_invalid", "quorum", message, "name more `users`, or a role")


def read_assignees(holder: Reader) -> None:
    """Judge who is asked, as a definition or a person says it: `users`, `roles` or both."""
    assignees = holder.inner("assignees", ASSIGNEE_KEYS)
    if assignees is None:
        return
    people = [assignees.words(key) for key in ("users", "roles")]
    names_nobody = not any(assignees.members.values())
    if not any(people) and names_nobody and not assignees.members.keys() - ASSIGNEE_KEYS:
        holder.refuse(
            "value_invalid", "assignees", "`assignees` names nobody", "add users or roles"
        )


def _read_expiry(config: Reader, node: Node) -> None:
    """Read `expires_in`, which the step's own timeout says as well."""
    config.number("expires_in", 0, MAX_SECONDS, above=True)
    if "expires_in" in config.members and node.step.policy.timeout is not None:
        message = "`expires_in` and the step's `error_handling.timeout` mean the same"
        config.refuse("key_conflict", "expires_in", message, "keep one of them")


def _read_wait(config: Reader, node: Node) -> None:
    given = [key for key in ("seconds", "until") if key in config.members]
    if len(given) != 1:
        code = "key_conflict" if given else "key_missing"
        message = "a wait has either `seconds` or `until`"
        config.findings.refuse(code, config.pointer, message)
        return
    is_text = isinstance(config.members[given[0]], str)
    is_template = is_text and node.timer is not None and bool(node.timer.paths)
    if given == ["until"]:
        text = config.word("until")
        if text is not None and not is_template and parse_instant(text) is None:
            message = f"{clip(text)} is no instant"
            hint = "such as 2030-01-31T09:00:00Z, or a template that gives one"
            config.refuse("value_invalid", "until", message, hint)
    elif is_template and node.timer is not None and not node.timer.is_reference:
        message = "this always gives a text, and `seconds` is a number"
        config.refuse("value_invalid", "seconds", message, "write one template and nothing beside")
    elif not is_template:
        config.number("seconds", 0, MAX_SECONDS)


# --- reject_when


def _judge_reject_when(config: Reader, node: Node) -> None:
    """Let a condition on the answer read the answer, as `result` or by the step's id."""
    condition = node.reject_when
    if condition is None or node.form is None:
        return
    pointer = f"{config.pointer}/reject_when"
    if isinstance(condition, Otherwise) or code_conditions(condition):
        message = "an answer is judged by comparisons only"
        config.findings.refuse("reject_when_invalid", pointer, message)
    fields = [field.name for field in node.form.fields]
    for relative, path in paths_of(condition):
        where = pointer + relative
        if path.root == "parameters":
            continue
        if path.root not in {"result", node.step.id}:
            hint = _hint_at_field(path.root, node.form) or "write result.field or parameters.name"
            message = f"{clip(path.text)} is not part of the answer"
            config.findings.refuse("reject_when_invalid", where, message, hint)
        elif path.segments and path.segments[0] not in fields:
            hint = config.findings.speller.hint(path.segments[0], fields)
            message = f"the form has no field {clip(path.segments[0])}"
            config.findings.refuse("output_undeclared", where, message, hint)


def _hint_at_field(name: str, form: Form) -> str:
    return f"write result.{name}" if name in {field.name for field in form.fields} else ""
