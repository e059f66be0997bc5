"""Agent conditions with a scripted routing service, through the real engine."""

from __future__ import annotations

from typing import Any

from iaflow.testing import ScriptedRouter, rehearse

QUESTION = "Which desk is this for?"


def agent(choice: str) -> dict[str, Any]:
    config = {
        "service": "router",
        "question": QUESTION,
        "choices": ["billing", "support"],
        "choice": choice,
    }
    return {"type": "agent", "config": config}


def document(**more: Any) -> dict[str, Any]:
    step = {"module": "desk_steps", "step_class": "Read"}
    return {
        "name": "Desk",
        "steps": [{"id": name, **step} for name in ("read", "bill", "help", "sorry")],
        "flow": {
            "start_at": "read",
            "transitions": [
                {"from": "read", "to": "bill", "condition": agent("billing")},
                {"from": "read", "to": "help", "condition": agent("support")},
                {"from": "read", "to": "sorry", "on": "failure"},
            ],
        },
        **more,
    }


STUBS: dict[str, Any] = {name: {} for name in ("bill", "help", "sorry")}


def test_the_service_is_asked_once_for_all_conditions_of_a_step() -> None:
    router = ScriptedRouter({QUESTION: {"answer": "support", "reason": "it asks for help"}})
    run = rehearse(
        document(), steps={**STUBS, "read": {"text": "help!"}}, services={"router": router}
    )
    run.assert_taken("read", "help")
    run.assert_skipped("bill", "sorry")
    assert [(asked.step_id, asked.choices) for asked in router.asked] == [
        ("read", ("billing", "support"))
    ]
    [reason] = [d.reason for d in run.decisions if d.target == "help"]
    assert (reason["answer"], reason["reason"]) == ("support", "it asks for help")


def test_an_answer_outside_the_choices_is_an_error() -> None:
    """It is no verdict: the step's end becomes a failure, which a transition may catch."""
    router = ScriptedRouter({QUESTION: "nowhere"})
    run = rehearse(document(), steps={**STUBS, "read": {}}, services={"router": router})
    run.assert_taken("read", "sorry")
    assert run.steps["read"].error is not None
    assert run.steps["read"].error["code"] == "condition_invalid"
    assert len(router.asked) == 1


def test_a_service_that_fails_is_not_asked_again_for_the_same_end() -> None:
    router = ScriptedRouter({QUESTION: [RuntimeError("no model"), "billing"]})
    run = rehearse(document(), steps={**STUBS, "read": {}}, services={"router": router})
    run.assert_taken("read", "sorry")
    assert run.steps["read"].error is not None
    assert run.steps["read"].error["code"] == "condition_failed"
    assert len(router.asked) == 1
