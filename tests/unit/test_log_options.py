"""``--log`` and ``--log-form`` before the command and after it, over LOG_FORM."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from etl_tasks.cli.log_options import log_options, set_up_logging
from etl_tasks.cli.main import cli
from etl_tasks.log import get_logger

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "import sys; from tests.unit.test_log_options import speaking; "
    "speaking.main(sys.argv[1:], prog_name='speaking', standalone_mode=False)"
)

WORKER = """
import logging, click
from celery import signals
import etl_tasks.celery

@click.command()
@click.option("--loglevel", default="WARNING")
def worker(loglevel):
    signals.setup_logging.send(sender=None, loglevel=loglevel)
    print(logging.getLevelName(logging.getLogger("etl_tasks").level))

worker()
"""
"""Celery's programs as far as logging goes: an option with a default, and the signal that hands it on."""


@log_options
@click.command()
def speak() -> None:
    """Say one line a level."""
    log = get_logger("etl_tasks.speaking")
    log.debug("heard", word="d")
    log.info("heard", word="i")
    log.warning("heard", word="w")


@click.group()
@click.pass_context
def speaking(context: click.Context) -> None:
    """A group that logs as the product's does."""
    set_up_logging(context)


log_options(speaking)
speaking.add_command(speak)


def said(arguments: Sequence[str], tmp_path: Path, **settings: str) -> list[str]:
    """The lines on stderr of a process of its own, run as ``python -m etl_tasks`` would be."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def words(lines: list[str]) -> str:
    return "".join(json.loads(line)["word"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "heard"),
    [
        (["speak"], "w"),
        (["--log", "INFO", "speak"], "iw"),
        (["speak", "--log=INFO"], "iw"),
        (["speak", "--log", "debug"], "diw"),
        (["--log", "INFO", "speak", "--log", "ERROR"], ""),
    ],
)
def test_the_level_is_heard_before_and_after_the_command(arguments: list[str], heard: str, tmp_path: Path) -> None:
    assert words(said(arguments, tmp_path, LOG_FORM="json")) == heard


def test_the_form_is_the_settings_unless_an_option_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_FORM=json\nPROCESS_NAME=night\n")
    (line,) = said(["speak"], tmp_path)
    told: dict[str, Any] = json.loads(line)
    assert (told["event"], told["process"], told["level"]) == ("heard", "night", "warning")
    (line,) = said(["--log-form", "console", "speak"], tmp_path)
    assert "heard" in line and "process=night" in line and not line.startswith("{")
    (line,) = said(["speak", "--log-form", "console"], tmp_path)
    assert not line.startswith("{")


def test_settings_that_are_wrong_do_not_keep_a_command_from_saying_so(tmp_path: Path) -> None:
    (line,) = said(["speak"], tmp_path, STEP_MIN="ten")
    assert "heard" in line


@pytest.mark.parametrize(
    ("arguments", "settings", "level"),
    [
        ([], {}, "INFO"),
        ([], {"LOG_LEVEL": "debug"}, "DEBUG"),
        (["--loglevel", "WARNING"], {"LOG_LEVEL": "DEBUG"}, "WARNING"),
    ],
)
def test_a_worker_logs_from_log_level_on_unless_loglevel_is_given(
    arguments: list[str], settings: dict[str, str], level: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == (level, 0), done.stderr


def test_every_command_takes_both() -> None:
    for command in [cli, *cli.commands.values()]:
        options = [name for parameter in command.params for name in parameter.opts]
        assert options.count("--log") == options.count("--log-form") == 1, command.name
