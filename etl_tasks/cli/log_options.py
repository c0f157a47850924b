"""``--log`` and ``--log-form``: before the command or, as in the old command line, after it."""

from __future__ import annotations

from typing import Any, Literal

import click

from etl_tasks.config import ConfigError, load_settings
from etl_tasks.log import configure_logging

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEFAULT_LEVEL = "WARNING"
FORMS = ("console", "json")
_CHOSEN = f"{__name__}.chosen"


def log_options(command: click.Command) -> click.Command:
    """Add both options to ``command``, the group or one of its commands, and return it; the rightmost one counts."""
    command.params += [
        click.Option(
            ["--log"],
            metavar="LEVEL",
            type=click.Choice(LEVELS, case_sensitive=False),
            expose_value=False,
            callback=_choose,
            help=f"What is logged, on stderr: {', '.join(LEVELS)}.  [default: {DEFAULT_LEVEL}]",
        ),
        click.Option(
            ["--log-form"],
            type=click.Choice(FORMS),
            expose_value=False,
            callback=_choose,
            help="How it is logged.  [default: LOG_FORM]",
        ),
    ]
    return command


def set_up_logging(context: click.Context) -> None:
    """Log as the options seen so far ask for, else from WARNING up in the form of ``LOG_FORM``."""
    chosen: dict[str, str] = context.meta.get(_CHOSEN, {})
    form, process = _from_settings()
    asked = chosen.get("log_form", form)
    configure_logging(
        chosen.get("log", DEFAULT_LEVEL), "json" if asked == "json" else "console", process=process or None
    )


def _choose(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is None:
        return
    # ``meta`` is one for the group and its command: what stands before the command holds for it too.
    context.meta.setdefault(_CHOSEN, {})[str(parameter.name)] = value
    if context.parent is not None:
        set_up_logging(context)


def _from_settings() -> tuple[Literal["console", "json"], str]:
    try:
        settings = load_settings()
    except ConfigError:
        # The command reads the settings too, and says every fault in its own way.
        return "console", ""
    return settings.log_form, settings.process_name
