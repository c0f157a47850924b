"""The group of all commands, and how an error becomes one message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import click

from etl_tasks.cli.cancel import cancel_command
from etl_tasks.cli.config import config_command
from etl_tasks.cli.ddl import ddl_command
from etl_tasks.cli.doctor import doctor_command
from etl_tasks.cli.gaps import gaps_command
from etl_tasks.cli.log_options import log_options, set_up_logging
from etl_tasks.cli.metrics import metrics_command
from etl_tasks.cli.migrate import migrate_command
from etl_tasks.cli.plan import plan_command
from etl_tasks.cli.publish import publish_command
from etl_tasks.cli.reconcile import reconcile_command
from etl_tasks.cli.report import report_command
from etl_tasks.cli.resume import resume_command
from etl_tasks.cli.run import run_command
from etl_tasks.cli.status import status_command
from etl_tasks.config import mask_secrets
from etl_tasks.errors import EtlError, UsageError

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130

SECTIONS: Mapping[str, Sequence[click.Command]] = {
    "Move rows": (plan_command, run_command, resume_command, cancel_command, publish_command),
    "Look": (status_command, doctor_command, gaps_command, report_command, reconcile_command, metrics_command),
    "Set up": (migrate_command, ddl_command, config_command),
}


class SectionedGroup(click.Group):
    """Lists its commands under the headings of ``SECTIONS``."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line a command; a command of no section stands under "More"."""
        placed = {command.name for commands in SECTIONS.values() for command in commands}
        rest = [command for name, command in self.commands.items() if name not in placed]
        room = formatter.width - 6 - max(len(name) for name in self.commands)
        for title, commands in {**SECTIONS, "More": rest}.items():
            if commands:
                with formatter.section(title):
                    formatter.write_dl([(command.name or "", command.get_short_help_str(room)) for command in commands])


@click.group(
    cls=SectionedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from the environment and .env: see `config`. Workers: celery -A etl_tasks worker",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Rows from Apache Phoenix (HBase) into ClickHouse: plan, run, look, set up."""
    set_up_logging(context)


log_options(cli)
# Its first sentence is longer than a line of the list.
config_command.short_help = "Print every setting in force and where it comes from."

for _commands in SECTIONS.values():
    for _command in _commands:
        # Inherited from the group too, but click keeps what it found at a command's first use, which may be without it.
        _command.context_settings.setdefault("help_option_names", ["-h", "--help"])
        cli.add_command(log_options(_command))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 failed, 2 not meant so, 130 interrupted. Errors are said on stderr."""
    try:
        code = cli.main(arguments, prog_name="python -m etl_tasks", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except EtlError as error:
        click.echo(f"error: {mask_secrets(str(error))}", err=True)
        return USAGE_ERROR if isinstance(error, UsageError) else FAILED
    except BrokenPipeError:
        # Whoever read the output has seen enough (`plan --json | head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code if isinstance(code, int) else 0
