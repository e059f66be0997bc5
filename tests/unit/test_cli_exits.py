"""Exit codes of errors and statuses.

Decides nothing; touches nothing. Run by pytest.
"""

import sqlite3

import psycopg2
import pytest
import redis

from iaflow.cli.exits import MEANINGS, ExitCode, code_of_error, code_of_status
from iaflow.data.status import RunStatus
from iaflow.errors import (
    AnswerRefused,
    Conflict,
    DefinitionRefused,
    IaflowError,
    InputRefused,
    NotFound,
    NotReachable,
    RunCancelled,
    RunFailed,
    SchemaOutdated,
    SettingsRefused,
)


@pytest.mark.parametrize(
    ("status", "code"),
    (
        (RunStatus.SUCCEEDED, 0),
        (RunStatus.FAILED, 1),
        (RunStatus.CANCELLED, 1),
        (RunStatus.WAITING, 4),
        (RunStatus.RUNNING, 0),
        (RunStatus.PENDING, 0),
    ),
)
def test_a_run_has_the_code_of_its_status(status: RunStatus, code: int) -> None:
    assert code_of_status(status) == code


@pytest.mark.parametrize(
    ("error", "code"),
    (
        (DefinitionRefused(()), 3),
        (InputRefused(()), 2),
        (AnswerRefused(()), 2),
        (NotFound("x"), 2),
        (Conflict("x"), 2),
        (SettingsRefused("x"), 2),
        (SchemaOutdated("x"), 2),
        (NotReachable("x"), 5),
        (RunFailed(run_id="r", step_id=None, code="c", cause="m"), 1),
        (RunCancelled(run_id="r"), 1),
        (IaflowError("x"), 2),
        (ValueError("x"), 1),
        (psycopg2.OperationalError("gone"), 5),
        (sqlite3.OperationalError("disk I/O error"), 5),
        (redis.ConnectionError("gone"), 5),
    ),
)
def test_an_error_has_the_code_of_who_can_mend_it(error: Exception, code: int) -> None:
    assert code_of_error(error) == code


def test_every_code_is_explained() -> None:
    assert set(MEANINGS) == set(ExitCode)
