"""The command line: `python -m devstack up | down | status | seed | wipe | …`."""

import argparse
import sys
from collections.abc import Sequence

from devstack.errors import DevstackError
from devstack.stack import ALL, PartStatus, Stack, timed

FORWARDED = ("seed", "change", "late", "expect")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (2 for a wrong usage, 1 for a fault)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in FORWARDED:
        # The source's data has a command line of its own; `seed` alone is the word for it, the others are its verbs.
        from devstack import phoenix_seed

        code = int(phoenix_seed.cli(arguments[1:] if arguments[0] == "seed" else arguments))
        return code or _refresh_overload(arguments)
    options = _parser().parse_args(arguments)
    stack = Stack.load(report=_say)
    try:
        return _run(stack, options)
    except DevstackError as error:
        print(f"devstack: {error}", file=sys.stderr)
        return 1


def _refresh_overload(arguments: Sequence[str]) -> int:
    """New rows need new guideposts for the overload form to hold."""
    if "expect" in arguments or "--help" in arguments or "-h" in arguments:
        return 0
    try:
        Stack.load(report=_say).refresh_overload()
    except DevstackError as error:
        print(f"devstack: {error}", file=sys.stderr)
        return 1
    return 0


def _run(stack: Stack, options: argparse.Namespace) -> int:
    env_file = stack.config.state_dir / "env"
    if options.command == "up":
        seconds = timed(lambda: stack.up(phoenix=not options.no_phoenix, overload=options.overload, only=options.only))
        _say(f"up in {seconds:.1f} s; settings are in {env_file}")
    elif options.command == "down":
        _say(f"down in {timed(stack.down):.1f} s")
    elif options.command == "wipe":
        stack.wipe()
        _say(f"the stack's state in {stack.config.state_dir} is gone")
    elif options.command == "status":
        return _print_status(stack.status())
    elif options.command == "env":
        print(env_file)
    elif options.command == "start":
        stack.start(options.part)
    elif options.command == "stop":
        stack.stop(options.part)
    elif options.command == "kill":
        stack.kill(options.part)
    elif options.command == "work":
        # Celery's supervisor is not needed to start or stop the services.
        from devstack.work import work

        return work(stack, options.workers, options.concurrency, options.beat, _say)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack", description="The development stack, without Docker.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start what is not running, wait for a real answer of each part")
    form = up.add_mutually_exclusive_group()
    form.add_argument(
        "--overload", action="store_true", default=None, help="a Query Server that rejects wide windows, as a busy one"
    )
    form.add_argument("--no-overload", dest="overload", action="store_false", help="back to the ordinary Query Server")
    up.add_argument("--no-phoenix", action="store_true", help="leave HBase and the Query Server out")
    up.add_argument("--only", action="append", default=[], choices=ALL, metavar="PART", help="only this part (repeats)")
    commands.add_parser("down", help="end what was started, within 10 s")
    commands.add_parser("status", help="every part, asked a real query; exit 1 when one does not answer")
    commands.add_parser("wipe", help="down, then delete all state")
    commands.add_parser("env", help="print the path of the env file")
    for verb, text in (("start", "start one part"), ("stop", "end one part"), ("kill", "kill -9 one part")):
        commands.add_parser(verb, help=text).add_argument("part", choices=ALL, metavar="PART")
    workers = commands.add_parser("work", help="workers that are started again whenever they end, until Ctrl-C")
    workers.add_argument("--workers", type=_count, default=1, metavar="N", help="how many (1)")
    workers.add_argument("--concurrency", type=_count, default=2, metavar="N", help="processes of each (2)")
    workers.add_argument("--beat", action="store_true", help="and beat, which plans the next run every STEP_MIN")
    for verb in FORWARDED:
        commands.add_parser(verb, help="the source's data (see: python -m devstack seed --help)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 64")
    return number


def _print_status(rows: Sequence[PartStatus]) -> int:
    if not rows:
        print("the stack was never started here")
        return 1
    print(f"{'part':12} {'pid':>8} {'MB':>6}  {'ports':18} state")
    for row in rows:
        print(f"{row.name:12} {row.pid or '-':>8} {row.memory_mb or '-':>6}  {row.ports:18} {row.detail}")
    return 0 if all(row.ready for row in rows if row.pid is not None) and any(row.pid for row in rows) else 1


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
