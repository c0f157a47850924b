"""The test's side of ``etl_tasks.failpoints``: arm one, wait until a process has come by, let it go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

VARIABLE = "ETL_FAILPOINTS"
Action = Literal["kill", "stop", "hold"]


@dataclass(frozen=True)
class Armed:
    """One armed failpoint."""

    path: Path

    def hits(self) -> list[dict[str, Any]]:
        """Every time it has gone off: pid, moment, and the ids of the place as text."""
        found = []
        for hit in sorted(self.path.parent.glob(f"{self.path.stem}.hit-*")):
            text = hit.read_text()
            if text:  # (made, and not yet written)
                found.append(json.loads(text))
        return found

    def wait(self, times: int = 1, timeout_s: float = 40.0) -> dict[str, Any]:
        """The hit number ``times``; AssertionError when it does not come."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            hits = self.hits()
            if len(hits) >= times:
                return hits[times - 1]
            time.sleep(0.02)
        raise AssertionError(f"nobody came by {self.path.stem} ({times} times) in {timeout_s:g} s")

    def release(self) -> None:
        """Whoever is held here may go on; whoever comes later is not held."""
        self.path.with_suffix(".release").touch()

    def resume(self) -> None:
        """Whoever was stopped here goes on (SIGCONT)."""
        for hit in self.hits():
            try:
                os.kill(int(hit["pid"]), signal.SIGCONT)
            except ProcessLookupError:
                continue  # it was killed meanwhile

    def disarm(self) -> None:
        """It does not go off any more."""
        self.path.unlink(missing_ok=True)


class Failpoints:
    """The failpoints of one deployment; its processes are started with ``ETL_FAILPOINTS`` naming ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._armed = 0
        directory.mkdir(parents=True, exist_ok=True)

    def arm(self, name: str, action: Action = "kill", times: int | None = 1, **where: Any) -> Armed:
        """From now on whoever comes by ``name`` with these ids gets ``action``, so many times (None: always)."""
        self._armed += 1
        path = self.directory / f"{name}~{self._armed:03}.json"
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps({"action": action, "times": times, "where": where}))
        scratch.replace(path)
        return Armed(path)

    def clear(self) -> None:
        """Nothing is armed any more; whoever is held or stopped goes on."""
        for path in list(self.directory.glob("*.json")):
            armed = Armed(path)
            armed.release()
            armed.resume()
        time.sleep(0.1)
        shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True)
