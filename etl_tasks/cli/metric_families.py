"""The journal's metrics as Prometheus families: a table of names, units, labels and what each one says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from etl_tasks.core.metrics import Counts, JournalMetrics, of_name
from etl_tasks.core.states import DEDUP_SUFFIX, RunStatus, SliceState

Values = Mapping[tuple[str, ...], float | None]
"""Label values → value; None is not served."""

_ACTIVE = (RunStatus.PLANNED, RunStatus.RUNNING)
_ENDED = (RunStatus.OK, RunStatus.ERROR, RunStatus.SKIPPED)
# Prometheus sees no increase from nothing to one: the class that is to be expected is there from the beginning.
_USUAL_KINDS = ("Overloaded",)
# A run takes its time and one may be refused while it does: status speaks after two steps, an alert wakes people.
LAG_STEPS = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings that alerts compare with, in seconds: a step of the schedule, RAW's TTL, and how far the schedule stays
    behind by intent.
    """

    step_s: float
    raw_ttl_s: float
    query_lag_s: float

    @property
    def lag_allowed_s(self) -> float:
        """A lag that is no alarm: the schedule's own, and some steps."""
        return self.query_lag_s + LAG_STEPS * self.step_s


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value of now."""

    name: str
    text: str
    values: Callable[[JournalMetrics], Values]
    labels: tuple[str, ...] = ()

    def family(self, metrics: JournalMetrics) -> Metric:
        """The family with its samples."""
        made = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in self.values(metrics).items():
            if value is not None:
                made.add_metric(labels, value)
        return made


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only grows, also over pruning; served as ``<name>_total``."""

    name: str
    text: str
    values: Callable[[JournalMetrics], Values]
    labels: tuple[str, ...] = ()

    def family(self, metrics: JournalMetrics) -> Metric:
        """The family with its samples."""
        made = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in self.values(metrics).items():
            made.add_metric(labels, value or 0)
        return made


@dataclass(frozen=True, slots=True)
class Summary:
    """How often and how long: ``<name>_count`` and ``<name>_sum`` from two counts of the journal (milliseconds)."""

    name: str
    text: str
    count: Callable[[Counts], Mapping[str, int]]
    took_ms: str
    labels: tuple[str, ...] = ()

    def family(self, metrics: JournalMetrics) -> Metric:
        """The family with its samples."""
        made = SummaryMetricFamily(self.name, self.text, labels=self.labels)
        took_ms = of_name(metrics.counts, self.took_ms)
        for label, count in self.count(metrics.counts).items():
            made.add_metric((label,) if self.labels else (), count_value=count, sum_value=took_ms.get(label, 0) / 1000)
        return made


def _one(value: float | None) -> Values:
    return {(): value}


def _at(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _lanes(value: Callable[[JournalMetrics, int], float | None], *lanes: str) -> Callable[[JournalMetrics], Values]:
    """A value of each process of these lanes (of all, when none is named)."""

    def values(metrics: JournalMetrics) -> Values:
        processes = [(index, each.process, each.lane) for index, each in enumerate(metrics.processes)]
        return {
            (process, lane): value(metrics, index) for index, process, lane in processes if not lanes or lane in lanes
        }

    return values


def _counted(name: str) -> Callable[[JournalMetrics], Values]:
    return lambda metrics: _one(metrics.counts[name, ""])


def _by_kind(name: str) -> Callable[[JournalMetrics], Values]:
    def values(metrics: JournalMetrics) -> Values:
        served: dict[tuple[str, ...], float] = {(kind,): 0 for kind in _USUAL_KINDS}
        return served | {(kind or "none",): value for kind, value in of_name(metrics.counts, name).items()}

    return values


def _active_runs(metrics: JournalMetrics) -> Values:
    names = [each.process for each in metrics.processes]
    return {(name, status.value): metrics.active_runs.get((name, status), 0) for name in names for status in _ACTIVE}


def _waiting_runs(metrics: JournalMetrics) -> Values:
    return {(each.process,): metrics.waiting_runs.get(each.process, 0) for each in metrics.processes}


def _runs_ended(metrics: JournalMetrics) -> Values:
    names = [each.process for each in metrics.processes]
    values: dict[tuple[str, ...], float] = {(name, status.value): 0 for name in names for status in _ENDED}
    for label, ended in of_name(metrics.counts, "runs_ended").items():
        values[tuple(label.rsplit(" ", 1))] = ended
    return values


def _slices(metrics: JournalMetrics) -> Values:
    lanes = [each.process for each in metrics.processes if not each.process.endswith(DEDUP_SUFFIX)]
    return {(name, state.value): metrics.active_slices.get((name, state), 0) for name in lanes for state in SliceState}


def _publishes(metrics: JournalMetrics) -> Values:
    now = metrics.publishing
    return {("due",): now.due, ("running",): now.running, ("error",): now.error}


def _publishes_ended(metrics: JournalMetrics) -> Values:
    found = of_name(metrics.counts, "publishes")
    return {(status.value,): found.get(status.value, 0) for status in (RunStatus.OK, RunStatus.ERROR)}


def _last_publish_s(metrics: JournalMetrics) -> Values:
    took_ms = metrics.publishing.last_duration_ms
    return _one(None if took_ms is None else took_ms / 1000)


def _reconciled(metrics: JournalMetrics) -> Values:
    if metrics.reconcile is None:
        return {}
    return {(status,): float(metrics.reconcile.status == status) for status in ("exact", "different", "error")}


def _reconciled_rows(metrics: JournalMetrics) -> Values:
    last = metrics.reconcile
    return {} if last is None else {("missing",): last.missing, ("extra",): last.extra, ("changed",): last.changed}


def _differing(metrics: JournalMetrics) -> Values:
    last = metrics.reconcile
    return {} if last is None else {("true",): last.mendable, ("false",): last.beyond}


PROCESS = ("process", "lane")

FAMILIES: tuple[Gauge | Counter | Summary, ...] = (
    # A lane of runs by hand stands where it was last sent: its watermark says nothing about being behind.
    Gauge(
        "etl_lag_seconds",
        "How far the schedule's watermark is behind now, in business time.",
        _lanes(lambda metrics, index: metrics.processes[index].lag_s, "schedule"),
        PROCESS,
    ),
    Gauge(
        "etl_watermark_timestamp_seconds",
        "Business time up to which the schedule has loaded without a gap.",
        _lanes(lambda metrics, index: _at(metrics.processes[index].watermark), "schedule"),
        PROCESS,
    ),
    Gauge(
        "etl_last_run_timestamp_seconds",
        "When the newest run (or publish) of the process was written to the journal, whatever became of it.",
        _lanes(lambda metrics, index: _at(metrics.processes[index].started_at)),
        PROCESS,
    ),
    Gauge(
        "etl_last_progress_timestamp_seconds",
        "When a run (or publish) of the process last moved: begun, a slice closed, a stage done, ended.",
        _lanes(lambda metrics, index: _at(metrics.processes[index].progress_at)),
        PROCESS,
    ),
    Gauge("etl_active_runs", "Runs (and publishes) that have not ended.", _active_runs, ("process", "status")),
    Gauge(
        "etl_runs_waiting_for_publish",
        "Of the active runs those that have loaded all they may and wait for a publish that is under way or put off.",
        _waiting_runs,
        ("process",),
    ),
    Counter("etl_runs_ended", "Runs (and publishes) that have ended.", _runs_ended, ("process", "status")),
    Gauge("etl_slices", "Slices of the runs that have not ended.", _slices, ("process", "state")),
    Counter(
        "etl_slices_failed",
        "Slices that ended in error, by the class of their last error.",
        _by_kind("slices_failed"),
        ("error_kind",),
    ),
    Counter(
        "etl_slices_split",
        "Slices split in two, by the class of the error that led to it.",
        _by_kind("slices_split"),
        ("error_kind",),
    ),
    Counter(
        "etl_overloads",
        "Rejections by an overloaded source, counted when the slice ends, by the class of its last error.",
        _by_kind("overloads"),
        ("error_kind",),
    ),
    Gauge(
        "etl_source_reads",
        "Slices that read the source now, and those that wait for their turn.",
        lambda metrics: {
            key: value
            for each in metrics.reads
            for key, value in (((each.source, "reading"), each.in_use), ((each.source, "waiting"), each.waiting))
        },
        ("source", "state"),
    ),
    Gauge(
        "etl_source_reads_limit",
        "Slices that may read the source at once; it follows the source, up to PHX_MAX_CONCURRENT_READS.",
        lambda metrics: {(each.source,): each.limit for each in metrics.reads},
        ("source",),
    ),
    Counter(
        "etl_source_reads_limit_halved",
        "How often an overload of the source halved that limit.",
        lambda metrics: {(each.source,): each.halvings for each in metrics.reads},
        ("source",),
    ),
    Summary(
        "etl_slice_duration_seconds",
        "From claim to end of the attempts that loaded a slice; their number is that of loaded slices.",
        lambda counts: {"": counts["slices_loaded", ""]},
        "slice_ms",
    ),
    Counter("etl_rows_read", "Rows read from the source by attempts that loaded their slice.", _counted("rows_read")),
    Counter("etl_rows_inserted", "Rows that those attempts inserted into RAW.", _counted("rows_inserted")),
    Counter(
        "etl_rows_repeated",
        "Rows among them whose key another row of the same slice has too.",
        _counted("rows_repeated"),
    ),
    Counter(
        "etl_rows_rejected",
        "Rows not moved because a value does not fit; one that several runs reject counts for each.",
        _counted("rows_rejected"),
    ),
    Gauge(
        "etl_partitions_owed",
        "Partitions with something loaded and not published.",
        lambda metrics: _one(metrics.publishing.owed),
    ),
    Gauge(
        "etl_partitions_incomplete",
        "Partitions published with a hole that a run left in error.",
        lambda metrics: _one(metrics.publishing.incomplete),
    ),
    Gauge("etl_publishes", "Partitions whose publish is due, under way or in error.", _publishes, ("state",)),
    Gauge(
        "etl_oldest_unpublished_seconds",
        "Age of the oldest load that is not published; 0 when nothing is owed.",
        lambda metrics: _one(metrics.publishing.oldest_unpublished_s),
    ),
    Gauge(
        "etl_unpublished_seconds",
        "Business time loaded and not published, all partitions together.",
        lambda metrics: _one(metrics.publishing.unpublished_s),
    ),
    Counter("etl_publishes_ended", "Attempts to publish a partition that have ended.", _publishes_ended, ("status",)),
    Summary(
        "etl_publish_duration_seconds",
        "How long publishes took that ended ok.",
        lambda counts: {"": counts["publishes", "ok"]},
        "publish_ms",
    ),
    Gauge("etl_publish_last_duration_seconds", "How long the newest publish took.", _last_publish_s),
    Gauge(
        "etl_publish_last_timestamp_seconds",
        "When a partition was last published.",
        lambda metrics: _one(_at(metrics.publishing.last_published_at)),
    ),
    Summary(
        "etl_publish_stage_seconds",
        "Time of each stage of publishes, of the slowest shard.",
        lambda counts: of_name(counts, "stages"),
        "stage_ms",
        ("stage",),
    ),
    Gauge(
        "etl_gaps",
        "Holes that nobody has loaded and no active run is to load, from the earliest coverage (or --since) to where "
        "the schedule had to be by now: what the command gaps lists.",
        lambda metrics: _one(metrics.gaps.gaps),
    ),
    Gauge(
        "etl_gap_seconds",
        "Business time of those holes together.",
        lambda metrics: _one(metrics.gaps.gap_s),
    ),
    Gauge("etl_reconcile_result", "1 for how the newest reconcile ended, 0 for the others.", _reconciled, ("result",)),
    Gauge(
        "etl_reconcile_timestamp_seconds",
        "When a reconcile last compared to its end.",
        lambda metrics: _one(_at(metrics.reconcile.compared_at) if metrics.reconcile else None),
    ),
    Gauge(
        "etl_reconcile_differing_windows",
        "Windows that differed when they were last compared (by any reconcile), by whether --repair mends that.",
        _differing,
        ("mendable",),
    ),
    Gauge(
        "etl_reconcile_differing_rows",
        "Rows that the newest reconcile found missing in CLEAN, only in CLEAN, or changed.",
        _reconciled_rows,
        ("difference",),
    ),
)


def journal_up(up: bool) -> Metric:
    """Whether the journal has answered: the one family that is always served."""
    return GaugeMetricFamily("etl_journal_up", "1 when the journal in PostgreSQL has answered, else 0.", float(up))


def families(metrics: JournalMetrics, limits: Limits) -> Iterator[Metric]:
    """Everything that the journal says, and the limits to compare it with."""
    yield journal_up(True)
    yield GaugeMetricFamily("etl_step_seconds", "A step (STEP_MIN): how often beat plans a run.", limits.step_s)
    yield GaugeMetricFamily(
        "etl_lag_allowed_seconds",
        f"The lag that is no alarm: PHX_QUERY_LAG_MINUTES and {LAG_STEPS} steps.",
        limits.lag_allowed_s,
    )
    yield GaugeMetricFamily("etl_raw_ttl_seconds", "RAW's TTL (CH_RAW_TTL_HOURS).", limits.raw_ttl_s)
    for family in FAMILIES:
        yield family.family(metrics)
