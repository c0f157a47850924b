"""Logging: one line an event, the ids of the work on every line, no password on any.

Our own lines have a stable ``event`` (``slice_done``) and their facts as keys. Lines of libraries, Celery among them,
come through the same handler: as ``event`` they have the logger's name in JSON, and their text as ``message``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from etl_tasks.config.masking import HIDDEN, mask_secrets
from etl_tasks.errors import UsageError

LogForm = Literal["console", "json"]

PACKAGE = "etl_tasks"
# Noisy below INFO, some of it for each row: phoenixdb's DEBUG lines double the cost of a row. They stay at INFO or
# above whatever level is asked for, and so does the root: only our own lines go down to DEBUG.
QUIET = {
    "phoenixdb": logging.INFO,
    "urllib3": logging.WARNING,
    "requests_gssapi": logging.INFO,
    # It logs each host that does not answer with a traceback; what comes of it, our own lines say.
    "clickhouse_driver": logging.ERROR,
    "amqp": logging.INFO,
    "kombu": logging.INFO,
    "celery": logging.INFO,
    # One line a message: what became of a slice is our own line, with the reason.
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    "tornado": logging.INFO,
    "asyncio": logging.WARNING,
}
_FIRST = (
    "timestamp",
    "level",
    "event",
    "process",
    "run",
    "slice",
    "attempt",
    "partition",
    "window",
    "token",
    "message",
)
_CELERY_LOGGERS = ("celery", "celery.task", "celery.worker", "celery.app.trace", "celery.redirected", "celery.beat")
_SECRET_KEY = re.compile(r"(?i)(password|passwd|secret|authorization|basic_auth)$")


def configure_logging(
    level: str | int = "INFO",
    form: LogForm = "console",
    stream: TextIO | None = None,
    *,
    process: str | None = None,
    force_colors: bool | None = None,
) -> None:
    """Send all logging of the process, structlog's and the standard library's, to ``stream`` (stderr).

    With ``process`` every line has ``worker``, and this process where it is about no run, whose lane may be another.
    ``level`` is for our own lines; libraries log from INFO up at the lowest. May be called again. Raises UsageError for
    a level or form that does not exist. For Celery, call it from the ``setup_logging`` signal: it then sets up none.
    """
    number = _level(level)
    if form not in ("console", "json"):
        raise UsageError(f"the form of the log is console or json, not {form!r}")
    target = sys.stderr if stream is None else stream
    colors = target.isatty() if force_colors is None else force_colors

    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_shared(process), structlog.stdlib.ExtraAdder(), _name_foreign(form)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last(form, colors)],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(number, logging.INFO))
    logging.getLogger(PACKAGE).setLevel(number)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(number, least))
    for name in _CELERY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.disabled = False
    logging.captureWarnings(True)

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(process),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str = PACKAGE) -> structlog.stdlib.BoundLogger:
    """The logger of a module; the first argument of its methods is the event's name, everything else comes by key."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def clear_log_context() -> None:
    """Forget all ids; for a process that begins new work, such as one just forked."""
    structlog.contextvars.clear_contextvars()


def scrub(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Hide passwords: values of keys that name one, and passwords inside texts, at any depth."""
    return {key: _scrubbed(key, value) for key, value in event_dict.items()}


def _scrubbed(key: str, value: Any) -> Any:
    if key.startswith("_"):  # structlog's own: the record, and whether it came from structlog
        return value
    if _SECRET_KEY.search(key):
        return HIDDEN if value else value
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, Mapping):
        return {inner: _scrubbed(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrubbed("", item) for item in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return mask_secrets(str(value))


def this_worker() -> str:
    """This process as the journal and the lines of the log name it: ``host:pid``; asked anew after a fork."""
    return f"{socket.gethostname()}:{os.getpid()}"


def write_json_line(logger: str, message: str) -> None:
    """Write a library's text as a line of the JSON form to stderr, in one system call, as a signal handler must."""
    line = {
        "event": logger,
        "message": mask_secrets(message),
        "level": "info",
        "logger": logger,
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "worker": this_worker(),
    }
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{json.dumps(line, ensure_ascii=False)}\n".encode())


def log_dying_threads() -> None:
    """From now on a thread that ends by an exception is a line of the log, not a text on stderr."""
    threading.excepthook = _log_dying_thread


def _log_dying_thread(died: threading.ExceptHookArgs) -> None:
    get_logger(__name__).critical(
        "thread_died", thread=died.thread.name if died.thread else "", exc_info=died.exc_value or died.exc_type
    )


def _shared(process: str | None) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        *([_add_origin(process)] if process else []),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _add_origin(process: str) -> Processor:
    def add_origin(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        if "run" not in event_dict:
            # A run may be of another lane; who logs it says which.
            event_dict.setdefault("process", process)
        event_dict.setdefault("worker", this_worker())
        return event_dict

    return add_origin


def _last(form: LogForm, colors: bool) -> list[Processor]:
    # Exceptions become text before passwords are looked for: a driver's message may quote a whole connection string.
    if form == "json":
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        return [structlog.processors.format_exc_info, scrub, _ids_first, renderer]
    return [structlog.processors.format_exc_info, scrub, structlog.dev.ConsoleRenderer(colors=colors)]


def _ids_first(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """What happened to what, then the facts: a line is read by people too."""
    first = {key: event_dict[key] for key in _FIRST if key in event_dict}
    return {**first, **event_dict}


def _name_foreign(form: LogForm) -> Processor:
    def name_foreign(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        if form == "json":
            event_dict["message"] = event_dict["event"]
            event_dict["event"] = event_dict.get("logger", "log")
        return event_dict

    return name_foreign


def _level(level: str | int) -> int:
    if isinstance(level, int):
        return level
    number = logging.getLevelNamesMapping().get(level.strip().upper())
    if not number:
        raise UsageError(f"there is no log level {level!r}; write DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return number
