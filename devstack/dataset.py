"""The rows of the development source: pure, deterministic, the same in every process and on every Python.

A row is a function of its spec and its index alone. All instants are integer milliseconds since the epoch, UTC.
Nothing here reads a clock, a file or a driver; `devstack.phoenix_seed` writes the rows and `devstack.oracle` says what
must become of them.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeVar

T = TypeVar("T")
Value = str | int | tuple[str | None, ...] | None
Row = tuple[Value, ...]
Key = tuple[str | None, int, int]

COLUMN_TYPES: Final[Mapping[str, str]] = {
    "c": "VARCHAR", "t": "UNSIGNED_TINYINT", "opd": "TIMESTAMP",
    "id": "VARCHAR", "did": "VARCHAR", "rid": "VARCHAR", "rinn": "VARCHAR", "rn": "VARCHAR", "sid": "VARCHAR",
    "sinn": "VARCHAR", "sn": "VARCHAR", "gt": "VARCHAR", "prid": "VARCHAR",
    "st": "UNSIGNED_TINYINT", "ste": "UNSIGNED_TINYINT", "elr": "UNSIGNED_TINYINT",
    "emd": "TIMESTAMP", "apd": "TIMESTAMP", "exd": "TIMESTAMP",
    "p": "VARCHAR", "pt": "UNSIGNED_TINYINT", "o": "VARCHAR", "pn": "VARCHAR", "b": "VARCHAR",
    "tt": "BIGINT", "tm": "TIMESTAMP", "ch": "VARCHAR ARRAY", "j": "VARCHAR",
    "pg": "UNSIGNED_SMALLINT", "et": "UNSIGNED_TINYINT", "pvad": "VARCHAR", "ag": "VARCHAR",
}  # fmt: skip
"""The source's columns in MAIN_COLUMNS order, with their Phoenix types; the first three are the key."""

MAIN_COLUMNS: Final[tuple[str, ...]] = tuple(COLUMN_TYPES)
VALUE_COLUMNS: Final[tuple[str, ...]] = MAIN_COLUMNS[3:]

SECOND: Final = 1_000
SLICE: Final = 5 * 60 * SECOND
HOUR: Final = 60 * 60 * SECOND
DAY: Final = 24 * HOUR

# How busy each UTC hour is, relative to the others: quiet nights, a dip at noon, an evening peak.
HOUR_WEIGHTS: Final = (5, 4, 4, 5, 8, 11, 14, 16, 17, 17, 16, 14, 13, 15, 16, 16, 15, 13, 12, 11, 10, 8, 7, 6)
_HOUR_STARTS: Final = (0, *accumulate(weight * HOUR for weight in HOUR_WEIGHTS))
_DAY_UNITS: Final = _HOUR_STARTS[-1]

_LATE_T: Final = 100
"""First of the 20 values of `t` that only late rows have, so that a late event of an old code is a new key."""
_WIDE_FAMILY: Final = 1 << 20
"""The family of serial numbers of wide rows; 0 is the first rows', 1 + version the late ones'."""

_CODE_ALPHABET: Final = "!\"%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_SPREAD: Final = 0x2C0FFEE5EED5BADC0DE9B
"""Odd and no multiple of 41, so prime to 82 ** 13: multiplied by it, different serial numbers stay different."""
_COMPANIES: Final = (
    "ТОО «Ромашка»", 'ООО "Вектор+"', "ИП О'Нил", "АО Қазақтелеком", "Café Ünïon GmbH", "東京商事", "LLC \\N;--",
)  # fmt: skip
_PRODUCTS: Final = ("Молоко 3,2% 1 л", "Сигареты «Север»", "Вода 0.5L", "Обувь 42½", "Шина 205/55", "Сыр 🧀", "T-shirt")
_WORDS: Final = ("ввод", "в", "оборот", "отгрузка", "приёмка", "агрегат", "return", "sale", "№7", "100%", "проверка")
_ODD: Final = (
    "it's", '"quoted"', "back\\slash \\n \\N", "tab\there", "line\nbreak\r\n", "a; DROP TABLE x; --", "/* no */ -- no",
    "👩‍👩‍👧‍👦🇰🇿", "e\u0301 ≠ é", "\ufeffBOM", "NULL", " ", "  padded  ", "\x1dgs\x1d", "\u202ertl", "?",
    ":1 %s {0}", "[]", "\u0001",
)  # fmt: skip
_FAR_FUTURE: Final = (253_402_214_400_000, 253_402_300_799_999)  # 9999-12-31, its first and its last millisecond
_BEFORE_1970: Final = (-1, -250, -999, -1_000, -1_001, -86_400_001, -1_262_304_000_123, -2_208_988_799_999)
_BIG: Final = (2**63 - 1, -(2**63 - 1), 2**53 + 1, -(2**53) - 1, 2**31, -1, 0)
_TINY: Final = (0, 1, 127)  # Phoenix's UNSIGNED_TINYINT ends at 127
_SMALL: Final = (0, 1, 255, 256, 32_767)  # and its UNSIGNED_SMALLINT at 32,767


@dataclass(frozen=True)
class DatasetSpec:
    """`rows` rows over the `days` UTC days that end at `until_ms` (exclusive; the last day is partial).

    With `code`, all rows have that one `c`, and so lie on one shard.
    """

    rows: int
    days: int
    seed: int
    until_ms: int
    code: str | None = None

    def __post_init__(self) -> None:
        if self.rows < 0 or self.days < 1:
            raise ValueError(f"rows must be at least 0 and days at least 1, not {self.rows} and {self.days}")
        if self.start_ms < 0:
            raise ValueError(f"{self.days} days up to {self.until_ms} ms begin before 1970")
        if self.until_ms - self.start_ms < 2:
            raise ValueError(f"{self.days} days up to {self.until_ms} ms hold a single millisecond")
        if self.code is not None and self.rows > self.until_ms - self.start_ms:
            raise ValueError("rows that share one code need a millisecond each")

    @property
    def start_ms(self) -> int:
        """UTC midnight that the first day begins with."""
        return (self.until_ms - 1) // DAY * DAY - (self.days - 1) * DAY


def opd_at(spec: DatasetSpec, index: int) -> int:
    """The instant of row `index`."""
    if spec.code is None and index % 10 == 9:  # as the row before
        return opd_at(spec, index - 1)
    if spec.code is None and index % 20 == 14:  # a millisecond beside the row before
        opd = opd_at(spec, index - 1)
        return opd + 1 if opd + 1 < spec.until_ms else opd - 1
    return _spread_opd(spec, index) if spec.code is not None or index % 1000 == 20 else _edge_opd(spec, index)


def key_at(spec: DatasetSpec, index: int) -> Key:
    """Key `(c, t, opd)` of row `index`: unique within the spec."""
    opd = opd_at(spec, index)
    if spec.code is not None:
        return spec.code, index % 100, opd
    if index % 10 == 9:  # the same code at the same instant, another t
        code, t, _ = key_at(spec, index - 1)
        return code, (t + 50) % 100, opd
    if index % 20 == 14:  # the same code and t, a millisecond apart
        return (*key_at(spec, index - 1)[:2], opd)
    if index % 1000 == 20:
        return None, index // 1000 % 100, opd
    code = _serial_code(spec.seed, 0, index)
    if index % 1000 == 40:
        code = "тест😀" + code
    elif index % 1000 == 60:
        code = f" {code} "
    return code, _TINY[index // 8 % len(_TINY)] if index % 8 == 5 else _mix(spec.seed, index, 3) % 100, opd


def row_at(spec: DatasetSpec, index: int) -> Row:
    """Row `index`, its values in MAIN_COLUMNS order."""
    if not 0 <= index < spec.rows:
        raise IndexError(f"row {index} of {spec.rows}")
    key = key_at(spec, index)
    return (*key, *_draw_values(f"{spec.seed}:{index}", key[2], 1.0 if index % 101 == 7 else 0.2))


def indexes_between(spec: DatasetSpec, since_ms: int | None = None, until_ms: int | None = None) -> list[int]:
    """Indexes of the rows with `opd` in `[since_ms, until_ms)`; None leaves a side open."""
    low = spec.start_ms if since_ms is None else since_ms
    high = spec.until_ms if until_ms is None else until_ms
    return [index for index in range(spec.rows) if low <= opd_at(spec, index) < high]


def rows_of(spec: DatasetSpec, since_ms: int | None = None, until_ms: int | None = None) -> Iterator[Row]:
    """The rows of the spec with `opd` in `[since_ms, until_ms)`, in the order of their indexes."""
    return (row_at(spec, index) for index in indexes_between(spec, since_ms, until_ms))


def changed_indexes(spec: DatasetSpec, n: int, since_ms: int, until_ms: int, version: int) -> list[int]:
    """Indexes of the `n` rows in the window that change `version` touches."""
    candidates = indexes_between(spec, since_ms, until_ms)
    if n > len(candidates):
        raise ValueError(f"{n} rows to change, but the window has {len(candidates)}")
    return sorted(sorted(candidates, key=lambda index: _mix(spec.seed, version, index))[:n])


def changed_row(spec: DatasetSpec, index: int, version: int) -> Row:
    """Row `index` as change `version` leaves it: the same key, other values.

    One of four by chance: every value NULL; no NULL at all but an emptied array; a few columns other than in the
    row's first version and a NULL over a value; everything drawn anew. `tt` of all but the first tells the version.
    """
    key = key_at(spec, index)
    turn = _mix(spec.seed, version, index, 1) % 4 or (3 if index % 101 == 7 else 0)  # no NULLs for a row of NULLs
    drawn = _draw_values(f"{spec.seed}:{index}:change:{version}", key[2], (1.0, 0.0, 0.2, 0.2)[turn])
    values = dict(zip(VALUE_COLUMNS, drawn, strict=True))
    if turn == 1:
        values["ch"] = ()
    elif turn == 2:
        first = dict(zip(MAIN_COLUMNS, row_at(spec, index), strict=True))
        kept = {name: first[name] for name in VALUE_COLUMNS if name not in ("st", "tm", "p")}
        values |= kept | {"rn": "переименован" if first["rn"] is None else None}
    if turn:
        values["tt"] = version
    return (*key, *values.values())


def changed(spec: DatasetSpec, n: int, since_ms: int, until_ms: int, version: int) -> Iterator[Row]:
    """`n` rows of the spec in the window `[since_ms, until_ms)` with new values under their old keys."""
    indexes = changed_indexes(spec, n, since_ms, until_ms, version)
    return (changed_row(spec, index, version) for index in indexes)


def late_key(spec: DatasetSpec, n: int, since_ms: int, until_ms: int, version: int, index: int) -> Key:
    """Key of late row `index` of `n`: the first and the last lie on the very edges of the window."""
    low, high = since_ms + (until_ms - since_ms) * index // n, since_ms + (until_ms - since_ms) * (index + 1) // n
    opd = since_ms if index == 0 else until_ms - 1 if index == n - 1 else low + _mix(version, index) % (high - low)
    if index % 50 == 25:
        return None, _LATE_T + version % 20, opd
    if index % 4 == 1 and spec.rows and spec.code is None:  # a late event of a code that has others
        return _serial_code(spec.seed, 0, _mix(version, index, 2) % spec.rows), _LATE_T + version % 20, opd
    return _serial_code(spec.seed, 1 + version, index), _mix(version, index, 3) % 100, opd


def late_row(spec: DatasetSpec, n: int, since_ms: int, until_ms: int, version: int, index: int) -> Row:
    """Late row `index` of `n`."""
    key = late_key(spec, n, since_ms, until_ms, version, index)
    return (*key, *_draw_values(f"{spec.seed}:{index}:late:{version}", key[2], 1.0 if index % 101 == 7 else 0.2))


def late(spec: DatasetSpec, n: int, since_ms: int, until_ms: int, version: int) -> Iterator[Row]:
    """`n` rows with keys that the spec does not have, spread over the window `[since_ms, until_ms)`."""
    check_span(n, since_ms, until_ms)
    return (late_row(spec, n, since_ms, until_ms, version, index) for index in range(n))


def wide_key(n: int, since_ms: int, until_ms: int, seed: int, index: int) -> Key:
    """Key of wide row `index` of `n`."""
    return _serial_code(seed, _WIDE_FAMILY, index), 7, since_ms + (until_ms - since_ms) * index // n


def wide_row(n: int, bytes_each: int, since_ms: int, until_ms: int, seed: int, index: int) -> Row:
    """Wide row `index` of `n`: `ag` has `bytes_each` bytes of hexadecimal noise, so compression at best halves it."""
    noise = random.Random(f"{seed}:wide:{index}").getrandbits(4 * bytes_each + 1)
    values: dict[str, Value] = dict.fromkeys(VALUE_COLUMNS)
    values |= {"id": f"wide-{index}", "ch": ("широкая", f"{index}"), "ag": f"{noise:0{bytes_each}x}"[:bytes_each]}
    return (*wide_key(n, since_ms, until_ms, seed, index), *values.values())


def wide(n: int, bytes_each: int, since_ms: int, until_ms: int, seed: int = 0) -> Iterator[Row]:
    """`n` rows of at least `bytes_each` bytes, evenly over the window `[since_ms, until_ms)`."""
    check_span(n, since_ms, until_ms)
    return (wide_row(n, bytes_each, since_ms, until_ms, seed, index) for index in range(n))


def check_span(n: int, since_ms: int, until_ms: int) -> None:
    """Raises ValueError unless the window has a millisecond for each of `n` rows."""
    if not 0 <= n <= until_ms - since_ms:
        raise ValueError(f"{n} rows do not fit into {until_ms - since_ms} ms, one a millisecond")


def _mix(*numbers: int) -> int:
    """A 64-bit hash of integers, the same everywhere (the finalizer of splitmix64 over a running sum)."""
    mixed = 0
    for number in numbers:
        mixed = mixed + (number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed


def _units_until(span_ms: int) -> int:
    """Milliseconds times the weight of their hour, summed over the first `span_ms` of a run of whole days."""
    day, rest = divmod(span_ms, DAY)
    hour, within = divmod(rest, HOUR)
    return day * _DAY_UNITS + _HOUR_STARTS[hour] + within * HOUR_WEIGHTS[hour]


def _spread_opd(spec: DatasetSpec, index: int) -> int:
    """The instant of row `index` before any edge is taken: grows with the index, denser in busy hours."""
    if spec.code is not None:  # evenly, so that no two rows share a millisecond
        return spec.start_ms + (spec.until_ms - spec.start_ms) * index // spec.rows
    total = _units_until(spec.until_ms - spec.start_ms)
    low, high = total * index // spec.rows, total * (index + 1) // spec.rows
    day, rest = divmod(low + _mix(spec.seed, index) % max(high - low, 1), _DAY_UNITS)
    hour = bisect_right(_HOUR_STARTS, rest) - 1
    return spec.start_ms + day * DAY + hour * HOUR + (rest - _HOUR_STARTS[hour]) // HOUR_WEIGHTS[hour]


def _edge_opd(spec: DatasetSpec, index: int) -> int:
    """The instant of row `index`; one in four lies on a second, a slice's edge, an hour or a midnight, or 1 ms off."""
    opd = _spread_opd(spec, index)
    if index % 256 == 16:
        opd = opd // DAY * DAY
    elif index % 256 == 32:
        opd = opd // DAY * DAY - 1
    elif index % 16 == 2:
        opd = opd // SLICE * SLICE
    elif index % 16 == 3:
        opd = opd // SLICE * SLICE + SLICE - 1
    elif index % 16 == 6:
        opd = opd // HOUR * HOUR
    elif index % 16 == 7:
        opd = opd // SECOND * SECOND
    return min(max(opd, spec.start_ms), spec.until_ms - 1)


def _serial_code(seed: int, family: int, index: int) -> str:
    """A code in the form of GS1 DataMatrix: another one for every (family, index) of a seed."""
    base, length = len(_CODE_ALPHABET), 13
    number = ((family << 40 | index) * _SPREAD + _mix(seed)) % base**length
    serial = ""
    for _ in range(length):
        number, digit = divmod(number, base)
        serial += _CODE_ALPHABET[digit]
    check = f"\x1d93{serial[::4]}" if index % 3 == 0 else ""
    return f"0104600{_mix(seed, index % 97) % 10**9:09d}21{serial}{check}"


class _Draw:
    """Chance from a seed by `Random.random()` alone, the one sequence that Python promises to keep."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self.chance() * limit)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.chance() * len(choices))]

    def text(self, words: int) -> str:
        return " ".join(self.pick(_ODD) if self.chance() < 0.02 else self.pick(_WORDS) for _ in range(words))


def _draw_values(seed: str, opd: int, nulls: float) -> list[Value]:
    """Values of VALUE_COLUMNS, each NULL with the probability `nulls`."""
    draw = _Draw(seed)
    below, pick, chance = draw.below, draw.pick, draw.chance
    company, receiver = below(10**6), below(10**6)
    values: dict[str, Value] = {
        "id": f"{below(2**32):08x}-{below(2**16):04x}-4{below(2**12):03x}-{below(2**48):012x}",
        "did": f"doc/{below(10**9):09d}",
        "rid": f"R{receiver:06d}",
        "rinn": f"{77 * 10**8 + receiver * 7919 % 10**8:010d}",
        "rn": f"{pick(_COMPANIES)} {receiver % 500}",
        "sid": f"S{company:06d}",
        "sinn": f"{company * 104729 % 10**12:012d}",
        "sn": f"{pick(_COMPANIES)} {company % 500}",
        "gt": f"04600{company % 10**9:09d}",
        "prid": f"{company:06d}",
        "st": pick(_TINY) if chance() < 0.2 else below(12),
        "ste": below(128),
        "elr": pick(_TINY),
        "emd": pick(_BEFORE_1970) if chance() < 0.1 else opd - below(90 * DAY),
        "apd": opd - below(DAY),
        "exd": pick(_FAR_FUTURE) if chance() < 0.3 else opd + below(1000) * DAY,
        "p": pick(_PRODUCTS),
        "pt": below(128),
        "o": pick(("ISSUE", "SHIP", "ACCEPT", "RETIRE", "", "'", "\\")),
        "pn": pick(_ODD) if chance() < 0.5 else f"PN-{below(10**6):06d}",
        "b": "" if chance() < 0.05 else f"{pick('АБВABC')}{below(10**4)}",
        "tt": pick(_BIG) if chance() < 0.3 else below(10**12),
        "tm": opd + below(HOUR),
        "ch": _draw_array(draw),
        "j": json.dumps(
            {"op": pick(_WORDS), "документ": {"№": below(10**6), "q": pick(_ODD)}, "codes": [below(99)] * below(4)},
            ensure_ascii=chance() < 0.3,
        ),
        "pg": pick(_SMALL) if chance() < 0.2 else below(40),
        "et": below(30),
        "pvad": draw.text(2 + below(16)),
        "ag": draw.text(2 + below(24)),
    }
    return [None if chance() < nulls else value for value in values.values()]


def _draw_array(draw: _Draw) -> tuple[str | None, ...]:
    """Mostly a few codes; at times empty, or with an empty string, a NULL or an odd text in any place."""
    kind = draw.below(10)
    if kind == 0:
        return ()
    codes: list[str | None] = [f"0104600{draw.below(10**9):09d}21{draw.below(99)}" for _ in range(1 + draw.below(5))]
    if kind < 5:
        codes.insert(draw.below(len(codes) + 1), (None, "", draw.pick(_ODD), "Қазақ 😀")[kind - 1])
    return tuple(codes)
