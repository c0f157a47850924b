"""The page of a run as a browser shows it: on a phone, on a desk, dark, and printed."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_tasks.cli.report import render
from etl_tasks.core.report import page_of
from tests.report_samples import eventful, large

pytestmark = pytest.mark.integration

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
PHONE, TABLET, DESK = (390, 844), (768, 1024), (1280, 900)
# What the printer leaves of A4, in the pixels of style sheets: 186 mm.
PAPER_WIDTH = 703
# Put into a copy of the page, inside a frame as wide as the screen asked for: what stands out of it, and what shows.
MEASURE = """<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest("svg") || e.tagName == "svg")
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + " " + e.className);
  const seen = e => getComputedStyle(e).display != "none" && e.getBoundingClientRect().height > 0;
  parent.document.title = JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth, wide,
    lanes: [...document.querySelectorAll(".lane svg")].filter(seen).length,
    bars: document.querySelectorAll(".lane rect").length,
    heads: [...document.querySelectorAll("thead")].filter(seen).length,
    text: Math.min(...[...document.querySelectorAll("p, td, dd, li, .name, .day")]
      .map(e => parseFloat(getComputedStyle(e).fontSize))),
    ground: getComputedStyle(document.body).backgroundColor});
});
</script></head>"""
POLICY = re.compile(r"<meta http-equiv=.*>")

Browse = Callable[..., str]


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Browse:
    """``browse(page, "--dump-dom")``: what Chromium prints for a file with these arguments."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        if os.environ.get("CI") == "true":
            raise RuntimeError("no Chromium: devstack/bootstrap.sh installs it")
        pytest.skip("no Chromium here: devstack/bootstrap.sh installs it")

    def run(page: Path, *arguments: str) -> str:
        profile = tmp_path_factory.mktemp("profile")
        done = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "run.html"
    target.write_text(render(page_of(eventful()), "stg.daily_codes_history"), encoding="utf-8")
    return target


def measured(browse: Browse, page: Path, size: tuple[int, int], scheme: str = "light") -> dict[str, object]:
    """What the script in the page finds on a screen of this size, which a window cannot always be made as narrow as."""
    text = page.read_text(encoding="utf-8")
    assert len(POLICY.findall(text)) == 1
    copy, frame = page.with_name("copy.html"), page.with_name("frame.html")
    copy.write_text(POLICY.sub("", text).replace("</head>", MEASURE), encoding="utf-8")
    frame.write_text(
        f"<!doctype html><title>waiting</title><style>:root{{color-scheme:{scheme}}}</style>"
        f'<iframe src="{copy.name}" width="{size[0]}" height="{size[1]}" frameborder="0"></iframe>'
    )
    # The copy has to reach the frame's title, which files may not do to one another otherwise.
    dom = browse(frame, "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title, dom[:500]
    found: dict[str, object] = json.loads(html.unescape(title[1]))
    return found


def pixels(png: Path) -> tuple[int, int, Counter[bytes]]:
    """Width, height, and how often each filtered row of a PNG comes: enough to tell a drawing from a blank sheet."""
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    raw = zlib.decompress(packed)
    stride = len(raw) // height
    return width, height, Counter(raw[row * stride : (row + 1) * stride] for row in range(height))


@pytest.mark.parametrize("size", [PHONE, TABLET, DESK])
def test_it_fits_the_screen_and_shows_everything(browse: Browse, page: Path, size: tuple[int, int]) -> None:
    found = measured(browse, page, size)
    assert found["inner"] == size[0]
    assert found["wide"] == []
    assert found["scroll"] == size[0], "nothing to scroll sideways to"
    assert (found["lanes"], found["bars"]) == (4, 181), "185 slices less four that nobody has begun"
    assert isinstance(found["text"], float | int)
    assert found["text"] >= 10.5, "nothing too small to read"
    # On a phone tables are stacked, each cell with its own heading.
    assert found["heads"] == (0 if size == PHONE else 5)


def test_a_large_run_fits_a_phone_too(browse: Browse, tmp_path: Path) -> None:
    target = tmp_path / "large.html"
    target.write_text(render(page_of(large(10_000)), "stg.daily_codes_history"), encoding="utf-8")
    found = measured(browse, target, PHONE)
    assert (found["scroll"], found["wide"], found["lanes"]) == (PHONE[0], [], 25)


def test_it_is_dark_where_the_reader_is(browse: Browse, page: Path) -> None:
    assert measured(browse, page, DESK)["ground"] == "rgb(255, 255, 255)"
    assert measured(browse, page, DESK, scheme="dark")["ground"] == "rgb(20, 23, 26)"


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_a_screenshot_is_no_blank_sheet(browse: Browse, page: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    target = tmp_path / "screen.png"
    browse(page, f"--screenshot={target}", f"--window-size={size[0]},{size[1]}")
    width, height, rows = pixels(target)
    assert (width, height) == size
    assert len(rows) > height / 4, "most rows of pixels differ"


def test_nothing_is_cut_off_on_paper(browse: Browse, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("print {") == 2
    printed = tmp_path / "printed.html"
    printed.write_text(re.sub(r"@media[^{]*print \{", "@media all {", text), encoding="utf-8")
    found = measured(browse, printed, (PAPER_WIDTH, 1000))
    assert (found["wide"], found["scroll"]) == ([], PAPER_WIDTH)


def test_it_prints(browse: Browse, page: Path, tmp_path: Path) -> None:
    target = tmp_path / "run.pdf"
    browse(page, f"--print-to-pdf={target}", "--no-pdf-header-footer")
    data = target.read_bytes()
    assert data.startswith(b"%PDF-")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 6
    assert len(data) > 20_000


def test_hostile_text_runs_nowhere(browse: Browse, page: Path) -> None:
    """Even without the page's own policy, in which no script may run at all."""
    text = page.read_text(encoding="utf-8")
    bare = page.with_name("bare.html")
    bare.write_text(
        POLICY.sub("", text).replace("</head>", "<script>alert = () => document.title = 'ran'</script></head>")
    )
    dom = browse(bare, "--virtual-time-budget=2000", "--dump-dom")
    assert "<title>Run 7 error" in dom
    assert "&lt;script&gt;alert(1)" in dom
    assert dom.count("<script") == 1
    assert "<img" not in dom
