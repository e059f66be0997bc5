"""The standard mix of runs (RELIABILITY 3.2), with what each must come to.

40 % chains, 25 % diamonds, 15 % branches of which one is skipped, 10 % questions, 10 % retries.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["KINDS", "Kind", "document", "draw"]

FIELDS = [{"name": "amount", "type": "number", "required": True}]


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A pipeline of the mix.

    Attributes:
        outputs: what it must return, for a run in which nothing is asked.
        executions: how often each step is executed when nothing befalls it.
        asks: a person is asked on the way.
    """

    definition: Mapping[str, Any]
    outputs: Mapping[str, Any]
    executions: Mapping[str, int]
    asks: bool = False


def document(
    slug: str, steps: Mapping[str, Mapping[str, Any]], edges: list[Any], **more: Any
) -> dict[str, Any]:
    """Return a definition; a transition is a pair, or a triple with its condition."""
    return {
        "name": slug,
        "slug": slug,
        "steps": [
            {
                "id": name,
                **({} if "type" in step else {"module": "chaos_steps", "step_class": "Adds"}),
                **step,
            }
            for name, step in steps.items()
        ],
        "flow": {
            "start_at": next(iter(steps)),
            "transitions": [
                {
                    "from": edge[0],
                    "to": edge[1],
                    **({"condition": edge[2]} if len(edge) > 2 else {}),
                }
                for edge in edges
            ],
        },
        # A storm may hit one step again and again.
        "error_handling": {"max_worker_losses": 50},
        **more,
    }


def _from(*steps: str) -> dict[str, Any]:
    return {"from": [f"{{{{ {step}.value }}}}" for step in steps]}


def _chain() -> Kind:
    names = [f"s{n}" for n in range(5)]
    steps: dict[str, Any] = {"s0": {"config": {"ms": 40}}}
    for before, after in pairwise(names):
        steps[after] = {"inputs": _from(before), "config": {"ms": 30}}
    return Kind(
        document("chain", steps, list(pairwise(names)), outputs={"value": "{{ s4.value }}"}),
        {"value": 5},
        dict.fromkeys(names, 1),
    )


def _diamond() -> Kind:
    arms = [f"a{n}" for n in range(8)]
    steps: dict[str, Any] = {"top": {}}
    steps |= {arm: {"inputs": _from("top"), "config": {"ms": 40}} for arm in arms}
    steps["join"] = {"inputs": _from(*arms)}
    edges = [("top", arm) for arm in arms] + [(arm, "join") for arm in arms]
    return Kind(
        document("diamond", steps, edges, outputs={"value": "{{ join.value }}"}),
        {"value": 17},
        dict.fromkeys(steps, 1),
    )


def _branch() -> Kind:
    steps: dict[str, Any] = {
        "top": {},
        "low": {"inputs": _from("top")},
        "high": {"inputs": _from("top")},
        "join": {"inputs": _from("top")},
    }
    edges = [
        ("top", "low", "top.value < 10"),
        ("top", "high", "top.value >= 10"),
        ("low", "join"),
        ("high", "join"),
    ]
    return Kind(
        document("branch", steps, edges, outputs={"value": "{{ join.value }}"}),
        {"value": 2},
        {"top": 1, "low": 1, "join": 1},
    )


def _question() -> Kind:
    steps: dict[str, Any] = {
        "before": {},
        "ask": {"type": "human_input", "config": {"ui_schema": {"fields": FIELDS}}},
        "after": {"inputs": {"from": ["{{ ask.amount }}"]}},
    }
    return Kind(
        document(
            "question",
            steps,
            [("before", "ask"), ("ask", "after")],
            outputs={"value": "{{ after.value }}"},
        ),
        {},
        {"before": 1, "after": 1},
        asks=True,
    )


def _retry() -> Kind:
    policy = {"retries": 2, "retry_delay": 0.05}
    steps = {"first": {}, "wavers": {"config": {"failures": 2}, "error_handling": policy}}
    return Kind(
        document("retry", steps, [("first", "wavers")], outputs={"value": "{{ wavers.value }}"}),
        {"value": 1},
        {"first": 1, "wavers": 3},
    )


KINDS = {
    "chain": _chain(),
    "diamond": _diamond(),
    "branch": _branch(),
    "question": _question(),
    "retry": _retry(),
}
WEIGHTS = {"chain": 40, "diamond": 25, "branch": 15, "question": 10, "retry": 10}


def draw(rng: random.Random, count: int) -> list[str]:
    """Return the kinds of so many runs, as the mix weighs them."""
    return rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
