"""The app: ``celery -A etl_tasks worker | beat | flower | call``, and its signals."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import structlog
from celery import Celery, signals

from etl_tasks.config import Settings, load_settings
from etl_tasks.log import clear_log_context, configure_logging
from etl_tasks.main_loop import MainLoop
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
        os.environ.setdefault("FLOWER_BASIC_AUTH", login)


if "flower" in sys.argv[1:]:
    _set_up_flower()


@signals.setup_logging.connect
def _set_up_logging(loglevel: int | str = "INFO", **_: Any) -> None:
    form = "json" if os.environ.get("ETL_LOG_FORM", "console") == "json" else "console"
    configure_logging(loglevel or "INFO", "json" if form == "json" else "console")


@signals.worker_init.connect
def _check_settings(**_: Any) -> None:
    stop.clear()
    for warning in settings().warnings:
        log.warning("setting_warning", warning=warning)


@signals.worker_process_init.connect
def _forget_parent(**_: Any) -> None:
    clear_log_context()


@signals.worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    stop.set()
