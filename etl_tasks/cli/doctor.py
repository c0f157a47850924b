"""``doctor``: whether everything that the system stands on is as it must be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.texts import wide_console
from etl_tasks.config import mask_secrets
from etl_tasks.core.doctor.findings import Finding, Verdict, counted
from etl_tasks.pipeline.doctor.checks import all_checks
from etl_tasks.pipeline.doctor.runner import chosen, examine

SICK = 1
_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.NOT_CHECKED: "dim"}


@click.command("doctor", short_help="Check services, tables, settings and workers: faults, cures.")
@click.argument("names", nargs=-1, metavar="[CHECK]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor_command(names: tuple[str, ...], as_json: bool) -> None:
    """Check everything that the system stands on, and say what to do where something is wrong.

    With names of checks (`doctor beat queues`) only those, and what they need. Writes nothing anywhere. Exit code 0
    without a fail (warnings are allowed), 1 with one.
    """
    settings = read_settings()
    with open_wiring(settings).doctor_context() as context, Console(stderr=True).status("asking …"):
        findings = list(examine(chosen(all_checks(context), names)))
    if as_json:
        click.echo(json.dumps(as_dict(findings), ensure_ascii=False, indent=2))
    else:
        _print(findings)
    raise click.exceptions.Exit(SICK if counted(findings)[Verdict.FAIL] else 0)


def as_dict(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for programs."""
    return {
        "counts": {str(verdict): count for verdict, count in counted(findings).items()},
        "checks": [
            {
                "check": finding.check,
                "verdict": str(finding.verdict),
                "found": mask_secrets(finding.found),
                "cure": mask_secrets(finding.cure),
            }
            for finding in findings
        ],
    }


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("found, and the cure", overflow="fold")
    for finding in findings:
        said = Text(mask_secrets(finding.found))
        if finding.cure:
            said.append("\n→ ", style="bold").append(mask_secrets(finding.cure))
        table.add_row(finding.check, Text(finding.verdict, style=_STYLES[finding.verdict]), said)
    console = wide_console()
    console.print(table)
    counts = counted(findings)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
