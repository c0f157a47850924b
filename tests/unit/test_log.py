"""Logging: the shape of a line, the ids on it, what stays quiet, and that no password gets through."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from etl_tasks.errors import UsageError
from etl_tasks.log import (
    QUIET,
    clear_log_context,
    configure_logging,
    get_logger,
    log_dying_threads,
    write_json_line,
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging as pytest set it up."""
    names = ["", "etl_tasks", *QUIET, "celery.task", "celery.worker"]
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).handlers[:]) for name in names}
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers
    logging.captureWarnings(False)
    structlog.reset_defaults()
    clear_log_context()


class Lines:
    """What was logged, as JSON objects."""

    def __init__(self, level: str = "INFO") -> None:
        self.stream = io.StringIO()
        configure_logging(level, "json", self.stream)

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def one(self) -> dict[str, Any]:
        (line,) = self.all()
        return line


def test_a_line_of_ours() -> None:
    lines = Lines()
    get_logger("etl_tasks.pipeline.extract").info("slice_done", rows=4904, window="[a, b)")
    line = lines.one()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "slice_done",
        "rows": 4904,
        "window": "[a, b)",
        "level": "info",
        "logger": "etl_tasks.pipeline.extract",
    }


def test_ids_are_on_every_line_inside_the_block_and_gone_after_it() -> None:
    lines = Lines()
    with bound_contextvars(run=7, partition=20250808):
        with bound_contextvars(slice=3, attempt=2, task="t-1"):
            get_logger().info("claimed")
            logging.getLogger("celery.worker.consumer").info("Task %s received", "x")
        get_logger().info("between")
    get_logger().info("after")
    ids = ("run", "slice", "attempt", "partition", "task")
    assert [{key: line[key] for key in ids if key in line} for line in lines.all()] == [
        {"run": 7, "slice": 3, "attempt": 2, "partition": 20250808, "task": "t-1"},
        {"run": 7, "slice": 3, "attempt": 2, "partition": 20250808, "task": "t-1"},
        {"run": 7, "partition": 20250808},
        {},
    ]


def test_with_a_process_every_line_says_whose_it_is_and_no_run_is_put_into_the_wrong_lane() -> None:
    stream = io.StringIO()
    configure_logging("INFO", "json", stream, process="codes")
    get_logger().info("swept", slices_sent=2)
    with bound_contextvars(run=7):
        get_logger().info("run_ended")
        get_logger().info("run_ended", process="manual_codes")
    logging.getLogger("celery.beat").info("beat: Starting...")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("process") for line in lines] == ["codes", None, "manual_codes", "codes"]
    assert {line["worker"] for line in lines} == {f"{socket.gethostname()}:{os.getpid()}"}
    assert list(lines[2])[:5] == ["timestamp", "level", "event", "process", "run"], "what happened to what comes first"


def test_a_thread_that_dies_is_a_line_with_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    lines = Lines()
    log_dying_threads()
    thread = threading.Thread(target=lambda: 1 / 0, name="lease")
    thread.start()
    thread.join(30)
    line = lines.one()
    assert (line["event"], line["level"], line["thread"]) == ("thread_died", "critical", "lease")
    assert line["exception"].splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_a_librarys_words_past_logging_become_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled():  # ``sys.__stderr__`` is the process's own, not pytest's
        read, write = os.pipe()
        kept = os.dup(2)
        os.dup2(write, 2)
        try:
            write_json_line("celery.apps.worker", "worker: Warm shutdown of redis://:hunter2@r/0")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(write)
        with os.fdopen(read) as stream:
            (line,) = [json.loads(text) for text in stream]
    assert (line["event"], line["level"]) == ("celery.apps.worker", "info")
    assert line["message"] == "worker: Warm shutdown of redis://:***@r/0"
    assert line["timestamp"].endswith("Z")


def test_lines_of_libraries_have_a_stable_event_and_their_text_as_message() -> None:
    lines = Lines()
    logging.getLogger("celery.worker.strategy").warning("Task %s received", "x")
    line = lines.one()
    assert (line["event"], line["message"], line["level"]) == ("celery.worker.strategy", "Task x received", "warning")


def test_celerys_own_handlers_are_taken_away() -> None:
    other = io.StringIO()
    task_logger = logging.getLogger("celery.task")
    task_logger.addHandler(logging.StreamHandler(other))
    task_logger.propagate = False
    lines = Lines()
    task_logger.info("hello")
    assert other.getvalue() == ""
    assert lines.one()["message"] == "hello"


def test_debug_is_for_our_own_lines_only() -> None:
    lines = Lines("DEBUG")
    for name in ("phoenixdb.avatica.client", "urllib3.connectionpool", "some.library"):
        logging.getLogger(name).debug("row")
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
    get_logger("etl_tasks.core").debug("ours")
    assert logging.getLogger().level == logging.INFO
    assert [line["event"] for line in lines.all()] == ["ours"]


def test_a_higher_level_is_for_all() -> None:
    lines = Lines("ERROR")
    get_logger().warning("quiet")
    logging.getLogger("phoenixdb").warning("quiet")
    logging.getLogger("celery").error("loud")
    assert [line["message"] for line in lines.all()] == ["loud"]


def test_setting_up_twice_logs_once() -> None:
    Lines()
    lines = Lines()
    get_logger().info("once")
    assert len(lines.all()) == 1


@pytest.mark.parametrize("form", ["json", "console"])
def test_passwords_get_through_nowhere(form: Any) -> None:
    stream = io.StringIO()
    configure_logging("INFO", form, stream)
    log = get_logger()
    log.info(
        "connecting", dsn="postgresql://ann:hunter2@db/etl", password="hunter2", nested={"urls": ["redis://:hunter2@r"]}
    )
    logging.getLogger("kombu").info("Connected to %s", "redis://:hunter2@r:6379//")
    try:
        raise RuntimeError("cannot connect: host=db password='hunter2'")
    except RuntimeError:
        log.exception("failed")
    logging.getLogger("celery").error("lost", exc_info=RuntimeError("amqp://ann:hunter2@r"))
    text = stream.getvalue()
    assert "hunter2" not in text
    assert text.count("***") == 7  # six values, and the source line in the traceback
    for kept in ("ann", "db", "RuntimeError", "password", "r:6379"):
        assert kept in text


def test_an_exception_is_one_field() -> None:
    lines = Lines()
    try:
        raise ValueError("no")
    except ValueError:
        get_logger().exception("failed")
    assert lines.one()["exception"].splitlines()[-1] == "ValueError: no"


def test_what_json_does_not_know_is_text() -> None:
    lines = Lines()
    get_logger().info("x", error=ValueError("a"), numbers={3}, flag=True, nothing=None, part=20250808)
    line = lines.one()
    assert [line[key] for key in ("error", "numbers", "flag", "nothing", "part")] == ["a", [3], True, None, 20250808]


def test_warnings_of_python_are_logged() -> None:
    lines = Lines()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in lines.one()["message"]


def test_the_console_form_is_for_people() -> None:
    stream = io.StringIO()
    configure_logging("INFO", "console", stream)
    with bound_contextvars(run=7):
        get_logger().info("slice_done", rows=5)
        logging.getLogger("celery").info("Task received")
    ours, theirs = stream.getvalue().splitlines()
    assert "slice_done" in ours
    assert ours.endswith("rows=5 run=7")
    assert "Task received" in theirs
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(("level", "form"), [("LOUD", "json"), ("NOTSET", "json"), ("INFO", "xml")])
def test_unknown_level_or_form_is_a_usage_error(level: str, form: Any) -> None:
    with pytest.raises(UsageError):
        configure_logging(level, form)
