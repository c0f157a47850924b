"""The app: ``celery -A etl_tasks worker | beat | flower | call``, and its signals."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import click
import structlog
from celery import Celery, signals
from click.core import ParameterSource

from etl_tasks.config import Settings, load_settings
from etl_tasks.log import clear_log_context, configure_logging, log_dying_threads, write_json_line
from etl_tasks.main_loop import MainLoop
from etl_tasks.memory import give_back_at_once
from etl_tasks.pipeline.stopping import StopFlag
from etl_tasks.wiring import wiring_factory

log = structlog.get_logger(__name__)


@cache
def settings() -> Settings:
    """The settings of this process; raises ConfigError with every fault."""
    return load_settings()


app = Celery("etl_tasks", include=["etl_tasks.tasks"])
app.config_from_object("celeryconfig")
# Made here, before any fork: the worker's main sets it and its children see it.
stop = StopFlag()
wiring = wiring_factory(settings, app, stop)
app.steps["worker"].add(MainLoop)


def _set_up_flower() -> None:
    """Flower reads no settings of ours, only its own variables: on loopback unless told otherwise, with the
    login of .env.
    """
    os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    login = settings().flower_basic_auth.get_secret_value()
    if login:
        # Not setdefault: a variable that is there and empty would leave Flower open to everybody.
        os.environ["FLOWER_BASIC_AUTH"] = login


if "flower" in sys.argv[1:]:
    _set_up_flower()


@signals.setup_logging.connect
def _set_up_logging(loglevel: int | str = "INFO", **_: Any) -> None:
    context = click.get_current_context(silent=True)
    # Celery's own default (WARNING) is nobody's wish: LOG_LEVEL counts then.
    asked = context is None or context.get_parameter_source("loglevel") not in (ParameterSource.DEFAULT, None)
    configure_logging(
        loglevel if asked and loglevel else settings().log_level,
        settings().log_form,
        process=settings().process_name,
    )
    log_dying_threads()


@signals.celeryd_init.connect
def _begin_worker(instance: Any, options: Mapping[str, Any], **_: Any) -> None:
    # Before anything is said: a warning of Python before Celery sets its logging up would be text on stderr.
    _set_up_logging(options.get("loglevel") or "INFO")
    if settings().log_form == "json":
        # What Celery writes past logging: the banner goes, its words at a stop become lines as all others.
        import celery.apps.worker as program

        instance.quiet = True
        program.safe_say = lambda message, stream=None: write_json_line(program.__name__, message)


@signals.worker_init.connect
def _check_settings(**_: Any) -> None:
    stop.clear()
    for warning in settings().warnings:
        log.warning("setting_doubted", warning=warning)


@signals.worker_ready.connect
def _say_ready(sender: Any, **_: Any) -> None:
    log.info(
        "worker_started",
        name=sender.hostname,
        queues=sorted(queue.name for queue in sender.task_consumer.queues),
        concurrency=sender.pool.num_processes,
    )


@signals.worker_process_init.connect
def _begin_child(**_: Any) -> None:
    clear_log_context()
    give_back_at_once()


# Around the task, not inside it: what Celery itself says of a task that failed has its ids too.
@signals.task_prerun.connect
def _bind_task(task_id: str, **_: Any) -> None:
    clear_log_context()
    structlog.contextvars.bind_contextvars(task=task_id)


@signals.task_postrun.connect
def _forget_task(**_: Any) -> None:
    clear_log_context()


@signals.task_revoked.connect
def _say_expired(sender: Any, request: Any, expired: bool, **_: Any) -> None:
    if expired:
        log.warning("task_expired", name=sender.name, task=request.id, expired_at=request.expires)


@signals.worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    stop.set()
