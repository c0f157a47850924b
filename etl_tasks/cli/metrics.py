"""``metrics``: the journal for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from datetime import datetime

import click
import structlog
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.metric_families import Limits, families, journal_up
from etl_tasks.config import Settings
from etl_tasks.core.business_time import parse_moment
from etl_tasks.core.metrics import JournalMetrics
from etl_tasks.errors import EtlError, UsageError

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 8.0
"""Prometheus gives up a scrape after 10 s unless told otherwise; until then it is told that the journal is away."""

FAILED = 1


@click.command("metrics", short_help="Serve the journal as metrics for Prometheus.")
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True, help="Where to listen.")
@click.option("--address", default="127.0.0.1", show_default=True, help="On which address; 0.0.0.0 is all.")
@click.option("--once", is_flag=True, help="Print the metrics and end; exit 1 when the journal is away.")
@click.option("--since", metavar="TIME", help="Business time from which on gaps count; else the earliest coverage.")
def metrics_command(port: int, address: str, once: bool, since: str | None) -> None:
    """Serve lag, progress, runs, slices, rows, splits, publishes and gaps over HTTP (/metrics) until stopped.

    Every scrape reads the journal in PostgreSQL and nothing else. While that is away, etl_journal_up is 0 and the rest
    is left out. Alert rules and a dashboard: devstack/images/prometheus, devstack/images/grafana.
    """
    settings = read_settings()
    gaps_since = _gaps_since(since, settings)
    journal = open_wiring(settings).metrics_journal(gaps_since)
    limits = Limits(
        step_s=settings.step_min * 60,
        raw_ttl_s=settings.ch_raw_ttl_hours * 3600,
        query_lag_s=settings.phx_query_lag_minutes * 60,
    )
    collector = JournalCollector(journal.read, limits, answer_within_s=None if once else ANSWER_WITHIN_S)
    registry = CollectorRegistry()
    registry.register(collector)
    if once:
        click.echo(generate_latest(registry).decode(), nl=False)
        raise click.exceptions.Exit(0 if collector.up else FAILED)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot listen on {address}:{port}: {reason}; see --port and --address") from error
    click.echo(f"metrics on http://{address}:{port}/metrics", err=True)
    try:
        thread.join()
    finally:
        server.shutdown()


def _gaps_since(since: str | None, settings: Settings) -> datetime | None:
    """What ``--since`` means, in business time."""
    if since is None:
        return None
    moment, notices = parse_moment(since, "since", settings.business_tz or None)
    for notice in notices:
        click.echo(f"note: {notice}", err=True)
    return moment


class JournalCollector(Collector):
    """Asks the journal at each scrape, in one thread of its own, and never longer than ``answer_within_s`` (None: as
    long as it takes).

    A journal that hangs is asked once, not once a scrape: who comes meanwhile waits for the same answer.
    """

    def __init__(
        self, read: Callable[[], JournalMetrics], limits: Limits, answer_within_s: float | None = ANSWER_WITHIN_S
    ) -> None:
        self._read = read
        self._limits = limits
        self._answer_within_s = answer_within_s
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._asked: Future[JournalMetrics] | None = None
        self.up = False
        """Whether the journal answered the last scrape."""

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not need the journal."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        metrics = self._answer()
        self.up = metrics is not None
        return families(metrics, self._limits) if metrics is not None else iter((journal_up(False),))

    def _answer(self) -> JournalMetrics | None:
        asked = self._asked
        if asked is None or asked.done():
            asked = self._asked = self._reader.submit(self._read)
        try:
            return asked.result(self._answer_within_s)
        except NotInTime:
            log.warning("journal_not_read", reason=f"no answer within {self._answer_within_s:g} s")
        except EtlError as error:
            log.warning("journal_not_read", reason=str(error))
        return None
