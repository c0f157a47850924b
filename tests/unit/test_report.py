"""The page of a run: what is shaped out of its slices, bounded and escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser

from etl_tasks.cli.report import render
from etl_tasks.core.report import DayCoverage, RunRecord, page_of
from etl_tasks.core.report_timeline import CELLS, MOST_BARS, MOST_LANES, Bar, throughput_of, timeline_of
from etl_tasks.core.states import SliceState
from tests.report_samples import BEGAN, HOSTILE, eventful, large, made, progress, window

CLEAN = "stg.codes"


def record(*slices: object, **changes: object) -> RunRecord:
    bare = RunRecord(BEGAN + timedelta(seconds=100), progress(), slices, [], [], [], 0)  # type: ignore[arg-type]
    return replace(bare, **changes)  # type: ignore[arg-type]


def places(bars: object) -> list[tuple[float, float, str]]:
    assert isinstance(bars, list | tuple)
    return [(bar.left_pct, bar.width_pct, bar.state) for bar in bars if isinstance(bar, Bar)]


def test_every_slice_lies_in_its_workers_lane_where_its_attempt_was() -> None:
    slices = [
        made(1, window(0), began_s=0, took_s=20),
        made(2, window(1), "error", began_s=30, took_s=10),
        made(3, window(2), "split", worker="b", began_s=10, took_s=5),
        made(4, window(3), "running", worker="b", began_s=60, took_s=None),
    ]
    timeline = timeline_of(slices, BEGAN + timedelta(seconds=100))
    assert timeline is not None
    assert (timeline.start, timeline.end) == (BEGAN, BEGAN + timedelta(seconds=100)), "what runs goes on until now"
    assert [(lane.worker, lane.slices) for lane in timeline.lanes] == [("etl1.example:4711", 2), ("b", 2)]
    assert places(timeline.lanes[0].bars) == [(0, 20, "done"), (30, 10, "error")]
    assert places(timeline.lanes[1].bars) == [(10, 5, "split"), (60, 40, "running")]
    assert [tick - BEGAN for tick in timeline.ticks] == [timedelta(seconds=25 * index) for index in range(5)]
    assert timeline.left_out == []


def test_what_nobody_has_begun_or_was_given_back_is_counted_and_not_drawn() -> None:
    planned = made(1, window(0), "planned", worker=None, began_s=None)
    given_back = made(2, window(1), "planned", began_s=3)
    assert timeline_of([planned, given_back], BEGAN) is None
    timeline = timeline_of([planned, given_back, made(3, window(2))], BEGAN)
    assert timeline is not None
    assert sum(lane.slices for lane in timeline.lanes) == 1
    assert [said.split()[0] for said in timeline.left_out] == ["2"]


def test_of_very_many_slices_neighbours_are_one_bar_and_what_failed_is_seen() -> None:
    ten_each = [made(index, window(index), began_s=index * 10, took_s=9.99) for index in range(MOST_BARS + 500)]
    ten_each[700] = made(700, window(700), "error", began_s=7000, took_s=9.99)
    timeline = timeline_of(ten_each, BEGAN)
    assert timeline is not None
    (lane,) = timeline.lanes
    assert [bar.state for bar in lane.bars] == ["done", "error", "done"]
    assert sum(sum(bar.counts.values()) for bar in lane.bars) == MOST_BARS + 500, "each is counted once"
    error = lane.bars[1]
    assert error.counts["error"] == 1
    assert abs(error.left_pct - 35) <= 100 / CELLS, "7,000 s of 20,000"
    assert all(bar.only is None for bar in lane.bars)
    assert "2,000 slices are drawn together" in timeline.left_out[0]


def test_the_workers_with_the_fewest_slices_share_a_lane() -> None:
    slices = [
        made(worker * 10 + index, window(index), worker=f"w{worker}", began_s=index * 10)
        for worker in range(MOST_LANES + 3)
        for index in range(1 if worker < 3 else 2)
    ]
    timeline = timeline_of(slices, BEGAN)
    assert timeline is not None
    assert len(timeline.lanes) == MOST_LANES + 1
    assert (timeline.lanes[-1].worker, timeline.lanes[-1].slices) == ("3 more workers", 3)


def test_rows_a_second_are_rows_by_the_end_of_their_slice() -> None:
    slices = [
        made(1, window(0), began_s=0, took_s=60, rows=6000),
        made(2, window(1), began_s=10, took_s=50, rows=600),
        made(3, window(2), began_s=60, took_s=60, rows=3300),
        made(4, window(3), "error", began_s=0, took_s=600),
    ]
    throughput = throughput_of(slices)
    assert throughput is not None
    # 120 s in 60 columns of 2 s: 6,600 rows end at second 60, 3,300 at the very end.
    assert [(column.rows, column.height_pct, round(column.left_pct)) for column in throughput.columns] == [
        (6600, 100, 50),
        (3300, 50, 98),
    ]
    assert throughput.peak_rows_per_s == 3300
    assert throughput_of([made(1, window(0), "error")]) is None


def test_a_calendar_is_weeks_from_monday_with_a_letter_a_day() -> None:
    covered = [
        DayCoverage(20250730, 86_400, 86_400, False),
        DayCoverage(20250801, 86_400, 43_200, False),
        DayCoverage(20250802, 86_400, 0, False),
        DayCoverage(20250803, 21_600, 0, False),
        DayCoverage(20250804, 0, 0, False),
        DayCoverage(20250806, 86_400, 86_400, True),
    ]
    july, august = page_of(record(coverage=covered)).months
    assert (july.first, july.blanks) == (date(2025, 7, 30), 2), "a Wednesday"
    assert (august.first, august.blanks) == (date(2025, 8, 1), 4), "a Friday"
    letters = [day.letter if day else None for day in august.days]
    assert letters == ["p", "L", "l", "-", None, "!"]
    assert [(day.loaded_pct, day.published_pct) for day in august.days[:3] if day] == [(100, 50), (100, 0), (25, 0)]
    assert july.days[0] is not None
    assert july.days[0].letter == "P"


def test_windows_are_counted_with_all_that_they_were_split_into() -> None:
    page = page_of(eventful())
    # 144 windows, of which every 17th from the fifth was split in two and one half of it in two again.
    assert page.states == {"planned": 4, "running": 1, "done": 160, "split": 18, "error": 2}
    assert len(page.most_split) == 9
    first = page.most_split[0]
    assert (first.window, first.pieces, first.depth, first.overloads) == (window(5), 3, 2, 6)
    assert page.overloads == 54
    assert page.rows == sum(each.rows for each in eventful().slices)
    assert [each.took_s for each in page.slowest] == [10.0] * 10
    assert page.took == timedelta(seconds=400)


def test_long_lists_are_cut_and_it_is_said() -> None:
    many = progress("ok", days=100)
    page = page_of(record(progress=many, rejected_rows=12))
    assert [each.partition for each in page.partitions] == [many.partitions[2].partition], "the one that failed"
    assert "of 100 partitions 1 are listed" in page.left_out[0]
    assert "12 rows were rejected" in page.left_out[1]


class Tags(HTMLParser):
    """Every element and attribute of a page; the stack must be empty at its end."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_loads_nothing() -> None:
    text = render(page_of(eventful()), CLEAN)
    parsed = tags(text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(parsed.seen)
    assert not {name for name, _ in parsed.attributes if name.startswith("on") or name in ("src", "href")}
    assert re.findall(r"url\((?!#p-)|@import|https?:", text) == []
    assert parsed.seen.count("rect") > 185
    assert "{{" not in text
    assert "None" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)


def test_hostile_text_is_text() -> None:
    text = render(page_of(eventful()), "stg.<b>codes")
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "stg.&lt;b&gt;codes" in text
    tags(text)


def test_a_run_of_ten_thousand_slices_is_a_page_of_bounded_size() -> None:
    for workers in (1, 40, 10_000):
        page = page_of(large(10_000, workers=workers))
        text = render(page, CLEAN)
        assert len(text.encode()) < 1_000_000, workers
        assert f"{10_000:,} slices are drawn together" in text
        assert page.states["error"] == 11


def test_a_run_without_anything_is_a_page_too() -> None:
    text = render(page_of(record()), CLEAN)
    tags(text)
    assert "Timeline" not in text
    assert all(f"</b> {state} 0" in text for state in SliceState)
