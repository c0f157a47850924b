"""``reconcile``: whether CLEAN holds what the source holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from etl_tasks.cli.assembly import interval_options, open_wiring, read_interval, read_settings
from etl_tasks.cli.texts import count_of, iso, number, short_time
from etl_tasks.core.reconciling import WindowContent, WindowCounts
from etl_tasks.core.slicing import SlicePlan, plan_slices
from etl_tasks.core.windows import Window
from etl_tasks.pipeline.reconcile import ReconcileContext, compare_window, count_windows, example_text

DIFFERENT = 1
MOST_WINDOWS = 20
