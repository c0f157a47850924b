"""`python -m devstack work`: workers on the development stack that are started again whenever they end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType

from devstack.errors import DevstackError
from devstack.stack import Stack
from devstack.supervisor import Supervisor
from devstack.worker import beat_command, worker_command

ENV_FILE = "ETL_ENV_FILE"


def work(
    stack: Stack,
    workers: int,
    concurrency: int,
    beat: bool,
    say: Callable[[str], None],
    environ: Mapping[str, str] | None = None,
) -> int:
    """Supervise `workers` workers, and beat, until Ctrl-C or SIGTERM; the exit code.

    Their settings are those of the stack's env file, over which the environment wins; raises DevstackError when the
    stack was never started here.
    """
    env_file = stack.config.state_dir / "env"
    if not env_file.exists():
        raise DevstackError(f"there is no {env_file}: python -m devstack up makes it")
    logs = stack.config.state_dir / "log"
    logs.mkdir(parents=True, exist_ok=True)
    programs = {f"worker{n}": worker_command(f"worker{n}", concurrency) for n in range(1, workers + 1)}
    if beat:
        programs["beat"] = beat_command(stack.config.state_dir / "celerybeat-schedule")
    asked = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        environment = {**(os.environ if environ is None else environ)}
        environment.setdefault(ENV_FILE, str(env_file))
        with Supervisor(programs, environment, logs) as supervisor:
            say(f"{', '.join(programs)} under a supervisor; logs in {logs}; Ctrl-C ends them")
            while not asked.wait(0.5):
                if supervisor.ended():
                    raise DevstackError("the supervisor ended by itself, and its programs with it")
            say("ending them; what is in hand goes back to the journal")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0
