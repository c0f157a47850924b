"""The app: ``celery -A etl_tasks worker | beat | flower | call``; its signals, and the sweep timer in every worker's main."""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any

import structlog
from celery import Celery, signals

from etl_tasks.config import Settings, load_settings
from etl_tasks.errors import EtlError
from etl_tasks.log import clear_log_context, configure_logging
from etl_tasks.pipeline.sweep import sweep
from etl_tasks.wiring import Wiring, wiring_factory

log = structlog.get_logger(__name__)


@cache
def settings() -> Settings:
    """The settings of this process; raises ConfigError with every fault."""
    return load_settings()


app = Celery("etl_tasks", include=["etl_tasks.tasks"])
app.config_from_object("celeryconfig")
wiring = wiring_factory(settings, app)

_sweeps_ended = threading.Event()


@signals.setup_logging.connect
def _set_up_logging(loglevel: int | str = "INFO", **_: Any) -> None:
    form = "json" if os.environ.get("ETL_LOG_FORM", "console") == "json" else "console"
    configure_logging(loglevel or "INFO", "json" if form == "json" else "console")


@signals.worker_init.connect
def _check_settings(**_: Any) -> None:
    for warning in settings().warnings:
        log.warning("setting_warning", warning=warning)


@signals.worker_process_init.connect
def _forget_parent(**_: Any) -> None:
    clear_log_context()


@signals.worker_ready.connect
def _start_sweeping(**_: Any) -> None:
    _sweeps_ended.clear()
    threading.Thread(target=_sweep_until_ended, name="sweep", daemon=True).start()


@signals.worker_shutting_down.connect
def _end_sweeping(**_: Any) -> None:
    _sweeps_ended.set()


def _sweep_until_ended() -> None:
    own = Wiring(settings(), app)
    context = own.sweep_context()
    while not _sweeps_ended.wait(own.settings.sweep_every_s):
        try:
            sweep(context)
        except EtlError as error:
            log.warning("sweep_failed", error=str(error))
        except Exception:
            # The sweeper is what everything else relies on: it says what went wrong, and goes on.
            log.exception("sweep_fault")
