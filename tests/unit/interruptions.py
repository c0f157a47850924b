"""An exception at every place of ours where CPython lets a signal's handler raise one, one place a run."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import etl_tasks

_OURS = str(Path(etl_tasks.__file__).parent)
"""The standard library's own places are left out: an interrupted ``Thread.start`` ends in whatever it likes."""


_CHECKED_AFTER = ("CALL", "JUMP_BACKWARD")
"""After instructions of these names the interpreter looks for signals (CPython 3.11, ``CHECK_EVAL_BREAKER``), and after
a RESUME, with which every call begins and which is traced as the call.
"""


class Interrupted(Exception):
    """What comes of the signal."""


def interrupted_at(place: int, act: Callable[[], None]) -> bool:
    """Run ``act`` and interrupt it at the place of that number, from 1 on; whether there is one.

    ``act`` is expected to let ``Interrupted`` through.
    """
    tracer = _Tracer(place)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        act()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return tracer.left == 0


class _Tracer:
    """Raises once, when ``place`` places of ours have been come by in the frames that begin after it was set."""

    def __init__(self, place: int) -> None:
        self.left = place
        self._checked_next: dict[FrameType, bool] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "return":
            self._checked_next.pop(frame, None)
        if event == "call" or (event == "opcode" and self._checked_next.get(frame)):
            self.left -= 1
            if self.left == 0:
                self._checked_next.clear()  # the frames hold what is to be forgotten
                raise Interrupted
        if event == "opcode":
            self._checked_next[frame] = _names(frame.f_code).get(frame.f_lasti, "").startswith(_CHECKED_AFTER)
        return self


@cache
def _names(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


class Watched:
    """Work in threads that must be over when its owner has left: ``faults`` says what was still at it.

    ``once`` is set when something was done.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.done = 0
        self.once = threading.Event()
        self._left = threading.Event()

    def work(self, name: object = None) -> None:
        """A moment's work."""
        self._left.wait(0.002)
        if self._left.is_set():
            self.faults.append(f"{name} was at work after its owner had left")
        self.done += 1
        self.once.set()

    def leave(self) -> None:
        """The owner has left."""
        self._left.set()
