"""Serve one ClickHouse node for as long as this process lives.

Run by the interpreter of the services' environment, in a directory with a `clickhouse-local.xml`; the argument is
the data directory. The engine is chdb's, which is ClickHouse itself as a library: its last statement never ends, and
meanwhile it answers on the native port and on HTTP like any server.
"""

import signal
import sys
import time

SERVE = (
    "SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; "
    "SELECT sleepEachRow(1) FROM numbers(100000000000) "
    "SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0 FORMAT Null"
)


def main() -> None:
    """Serve until a signal ends the process."""
    from chdb import _chdb

    # The engine blocks in C, where a Python handler would never run: leave the signals to the kernel.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while True:
        try:
            _chdb.query(SERVE, "CSV", path=sys.argv[1])
        except RuntimeError as error:  # somebody's KILL QUERY hit the serving statement too: serve again
            print(f"serving was interrupted: {error}", file=sys.stderr, flush=True)
        time.sleep(0.2)


main()
