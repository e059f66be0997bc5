"""Random definitions whose outcome does not depend on who is faster.

Decides what is drawn; all that is drawn has one outcome by the language: no step races another
one (no `cancels`, no `n_of_m`, no early end of a run or a foreach). Called by the fuzzers.
"""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

from iaflow.pipeline.check import check

__all__ = ["draw_definition", "draw_slug"]

_WORDS = ("a", "b", "c", "d", "e", "f", "g", "h", "k", "m", "n", "p")


def draw_slug(seed: int) -> str:
    """Return the slug of the definition of a seed."""
    return f"fuzz-{seed}-v1"


def draw_definition(
    seed: int, *, children: tuple[str, ...] = (), module: str = "fuzz_steps"
) -> dict[str, Any]:
    """
    Return the definition of a seed, always the same.

    Args:
        children: slugs of pipelines that its steps may run.
        module: where `Act` and the condition functions are.
    """
    for turn in count():
        random = Random(f"{seed}.{turn}")
        document = _Draw(random, seed, children, module).definition()
        # A join may be drawn that can never be complete: the check knows.
        if not check(document).errors:
            return document
    raise AssertionError("unreachable")


class _Draw:
    def __init__(self, random: Random, seed: int, children: tuple[str, ...], module: str) -> None:
        self.random = random
        self.seed = seed
        self.children = children
        self.module = module
        self.ids = [f"step_{word}" for word in _WORDS[: random.randint(1, len(_WORDS))]]
        self.before: dict[str, set[str]] = {step_id: set() for step_id in self.ids}
        self.edges: list[dict[str, Any]] = []
        self.fanned = {step_id for step_id in self.ids if random.random() < 0.15}

    def definition(self) -> dict[str, Any]:
        self._connect()
        steps = [self._step(step_id) for step_id in self.ids]
        document: dict[str, Any] = {
            "name": f"Fuzz {self.seed}",
            "slug": draw_slug(self.seed),
            "parameters": {"mode": self.random.choice(["auto", "hand"]), "limit": 5, "none": None},
            "steps": steps,
            "flow": {"start_at": self.ids[0], "transitions": self.edges},
            "error_handling": {"on_failure": "run_independent"},
        }
        if self._chance(0.3):
            document["outputs"] = {
                step_id: f"{{{{ {step_id} }}}}"
                for step_id in self.random.sample(self.ids, min(3, len(self.ids)))
            }
        return document

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _connect(self) -> None:
        """Give every step but the first one to three transitions from steps before it."""
        for place, step_id in enumerate(self.ids[1:], start=1):
            number = min(place, self.random.randint(1, 3))
            sources = self.random.sample(self.ids[:place], number)
            for source in sources:
                self.before[step_id] |= {source} | self.before[source]
                self.edges.append({"from": source, "to": step_id, **self._labels(source)})

    def _labels(self, source: str) -> dict[str, Any]:
        edge: dict[str, Any] = {}
        on = self.random.choice(["success"] * 6 + ["failure", "completed", "skipped"])
        if on != "success":
            edge["on"] = on
        if self._chance(0.55):
            edge["condition"] = self._condition(source, code=on not in {"skipped"})
        return edge

    def _condition(self, source: str, *, code: bool, depth: int = 0) -> Any:
        draw = self.random.random()
        limit = self.random.randint(0, 9)
        if source in self.fanned and draw < 0.6:
            return self.random.choice(["exists(result.results)", "not empty(result.results)"])
        if draw < 0.2:
            return f"result.number {self.random.choice(['<', '>', '==', '!='])} {limit}"
        if draw < 0.3 and depth == 0:
            return self.random.choice(["parameter:mode", "parameter:none"])
        if draw < 0.45:
            operator = self.random.choice(["eq", "ne", "gt", "lte", "exists", "is_null", "in"])
            value = {"exists": True, "is_null": True, "in": [1, 2, 3]}.get(operator, limit)
            path = self.random.choice(["number", "given", "missing"])
            config = {"source": f"{source}.{path}", "operator": operator, "value": value}
            return {"type": "expression", "config": config}
        if draw < 0.6 and depth < 2:
            kind = self.random.choice(["all", "any"])
            parts = [self._condition(source, code=code, depth=depth + 1) for _ in range(2)]
            return {
                "type": kind,
                "conditions": [p if isinstance(p, dict) else _wrap(p) for p in parts],
            }
        if draw < 0.7 and depth < 2:
            part = self._condition(source, code=code, depth=depth + 1)
            return {"type": "not", "condition": part if isinstance(part, dict) else _wrap(part)}
        if draw < 0.82 and code:
            name = "raises" if self._chance(0.15) else "is_small"
            config = {"module": self.module, "function": name, "arguments": {"limit": limit}}
            return {"type": "function", "config": config}
        return "parameters.limit >= 5 and parameters.mode == 'auto'"

    def _step(self, step_id: str) -> dict[str, Any]:
        random = self.random
        incoming = [edge for edge in self.edges if edge["to"] == step_id]
        outgoing = [edge for edge in self.edges if edge["from"] == step_id]
        step: dict[str, Any] = {"id": step_id}
        kind = random.random()
        if step_id in self.fanned:
            step |= self._task(step_id)
        elif kind < 0.08:
            step |= {"type": "wait", "config": {"seconds": 0}}
        elif kind < 0.16 and self.children:
            step |= {
                "type": "pipeline",
                "pipeline": random.choice(self.children),
                "inputs": {"mode": random.choice(["auto", "hand"])},
            }
        else:
            step |= self._task(step_id)
        if outgoing and self._chance(0.2):
            step["routing"] = "exclusive"
        sources = [edge["from"] for edge in incoming]
        watches_success = all(edge.get("on", "success") == "success" for edge in incoming)
        are_different = 1 < len(set(sources)) == len(sources)
        are_plain = watches_success and all(e.get("condition") is None for e in incoming)
        if are_different and are_plain and self._chance(0.3):
            step["join"] = "all_success"
        if self._chance(0.12) and not any(e.get("on") == "failure" for e in outgoing):
            step.setdefault("error_handling", {})["on_failure"] = "continue"
        return step

    def _task(self, step_id: str) -> dict[str, Any]:
        random = self.random
        config: dict[str, Any] = {"values": {"number": random.randint(0, 9)}}
        policy: dict[str, Any] = {}
        outcome = random.random()
        if outcome < 0.12:
            config["fail"] = True
        elif outcome < 0.22:
            config["fail_times"] = random.randint(1, 3)
            policy["retries"] = random.randint(0, 3)
        elif outcome < 0.28:
            config["skip"] = True
        step: dict[str, Any] = {"module": self.module, "step_class": "Act", "config": config}
        if policy:
            step["error_handling"] = policy
        if step_id in self.fanned:
            number = random.randint(0, 6)
            items = [{"number": n, "fail": self._chance(0.15)} for n in range(number)]
            step["foreach"] = {"items": items, "tolerated_failures": number}
            if self._chance(0.5):
                step["foreach"]["max_parallel"] = random.randint(1, 3)
        elif self._chance(0.6):
            step["inputs"] = self._inputs(step_id)
        if self._chance(0.1):
            step["concurrency_key"] = random.choice(["fuzz", "fuzz-{{ parameters.mode }}"])
        return step

    def _inputs(self, step_id: str) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "mode": "{{ parameters.mode }}",
            "number": self.random.randint(0, 9),
        }
        for source in sorted(self.before[step_id])[:2]:
            path = self.random.choice(["number | default(0)", "given", "number", "missing"])
            if source in self.fanned:
                path = self.random.choice(["results", "results.0 | default(null)"])
            elif path == "missing" and self._chance(0.7):
                path = "missing | default('none')"
            inputs[source] = f"{{{{ {source}.{path} }}}}"
        return inputs


def _wrap(condition: str) -> dict[str, Any]:
    """A word is no part of a group: say it with an object."""
    config = {"source": "parameters.limit", "operator": "gt", "value": len(condition) % 10}
    return {"type": "expression", "config": config}
