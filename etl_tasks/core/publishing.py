"""Values of a publish: what is asked, what came out, and the stage metrics the operators know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from etl_tasks.core.windows import Window


@dataclass(frozen=True, slots=True)
class LoadedWindow:
    """A window loaded since the published generation, and the distinct keys its slice counted in it (all shards
    together).
    """

    slice_id: int
    window: Window
    distinct_rows: int


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """One publish of one partition (an integer such as 20250808) under one fence token.

    ``rebuild`` takes RAW alone and drops what CLEAN had; else CLEAN's rows stay and the rows of ``windows`` win by
    version. A rebuild that would leave fewer than ``least_rows`` rows on all shards together, or take rows from CLEAN
    outside the windows ``lost``, is not to be done.
    """

    partition: int
    token: int
    windows: Sequence[LoadedWindow]
    rebuild: bool = False
    least_rows: int = 0
    lost: Sequence[Window] = ()


@dataclass(frozen=True, slots=True)
class StageMetric:
    """One stage of a publish as it stands in the journal's details; ``ms`` is the maximum over the shards."""

    stage: str
    part: int
    ms: int

    def as_details(self) -> dict[str, int | str]:
        """The JSON shape of the old system: ``{"stage": "drop_buf", "part": 20250115, "ms": 64}``."""
        return {"stage": self.stage, "part": self.part, "ms": self.ms}


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What happened on one shard: rows of CLEAN's partition before and after; ``skipped`` when RAW had nothing
    new there.
    """

    shard: int
    replica: str
    rows_before: int
    rows_after: int
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class PublishResult:
    """Outcome of a publish. If ``short_windows`` is not empty nothing was replaced and those slices must be
    loaded again.
    """

    shards: Sequence[ShardOutcome] = field(default_factory=tuple)
    stages: Sequence[StageMetric] = field(default_factory=tuple)
    short_windows: Sequence[LoadedWindow] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class PublishProgress:
    """A partition's publish as the journal has it now; ``state`` is a ``PublishState``.

    ``waits``: it is due, but not before ``not_before``. ``busy``: some publish of the CLEAN table is under way, and
    others wait for its end. ``stages`` and ``rows`` (in CLEAN after it) are of its last attempt, ``publish_run_id``;
    ``error`` is why that one failed, empty when it did not. ``rebuild_run_id`` is the last attempt of a rebuild and
    ``rebuild_error`` why it failed, empty when it did not.
    """

    partition: int
    state: str
    loaded_gen: int
    published_gen: int
    rebuild: bool
    waits: bool
    not_before: datetime | None
    busy: bool
    error: str
    publish_run_id: int | None
    stages: Sequence[StageMetric]
    rows: int | None
    duration_ms: int | None
    published_at: datetime | None
    rebuild_run_id: int | None = None
    rebuild_error: str = ""
