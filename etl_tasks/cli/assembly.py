"""What the commands have in common: the interval's options, and the wiring of a process that is no worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from etl_tasks.config import Settings, load_settings
from etl_tasks.core.business_time import BusinessInterval, parse_interval

if TYPE_CHECKING:
    from etl_tasks.wiring import Wiring

Command = TypeVar("Command", bound=Callable[..., Any])

_SINCE = "Begin of the business interval, included: 2025-08-08, 2025-08-08T10:00 (BUSINESS_TZ), 2025-08-08T10:00:00Z."
_UNTIL = "End of the business interval, excluded."


def interval_options(*, required: bool) -> Callable[[Command], Command]:
    """``--since`` and ``--until``."""

    def add(command: Command) -> Command:
        command = click.option("--until", metavar="TIME", required=required, help=_UNTIL)(command)
        return click.option("--since", metavar="TIME", required=required, help=_SINCE)(command)

    return add


def read_settings() -> Settings:
    """The settings in force, their warnings said on stderr; raises ConfigError with every fault."""
    settings = load_settings()
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    return settings


def read_interval(since: str, until: str, settings: Settings) -> BusinessInterval:
    """What the two options mean; raises UsageError."""
    return parse_interval(since, until, settings.business_tz or None)


def open_wiring(settings: Settings) -> Wiring:
    """The adapters of this process, which connect at first use."""
    # Celery and the drivers cost most of a second: `plan` and `--help` do without.
    from etl_tasks.celery import app
    from etl_tasks.wiring import Wiring

    return Wiring(settings, app)
