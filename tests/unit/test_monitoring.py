"""Alert rules and dashboard against the metrics served: every name, label, value and command in them exists."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from etl_tasks.cli.main import cli
from etl_tasks.cli.metric_families import FAMILIES, Limits, families
from etl_tasks.core.metrics import (
    GapMetrics,
    JournalMetrics,
    ProcessMetrics,
    PublishingMetrics,
    ReconcileMetrics,
    lane_of,
)
from etl_tasks.core.read_limit import SourceReads

IMAGES = Path(__file__).parents[2] / "devstack" / "images"
RULES_FILE = IMAGES / "prometheus" / "alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((IMAGES / "grafana/dashboards/etl.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
# Prometheus itself gives these to every sample, and has `up` for every target.
EVERYWHERE = {"instance", "job"}

FULL = JournalMetrics(
    now=NOON,
    processes=[
        ProcessMetrics(name, lane_of(name, "codes"), NOON, NOON, NOON, 60.0)
        for name in ("codes", "codes:dedup", "manual_codes")
    ],
    active_runs={("codes", "running"): 1},
    waiting_runs={"codes": 1},
    active_slices={("codes", "planned"): 3},
    publishing=PublishingMetrics(1, 2, 3, 4, 5, 6.5, 7.5, NOON, 2500),
    gaps=GapMetrics(1, 60.0),
    reconcile=ReconcileMetrics("different", NOON, NOON, mendable=1, beyond=5, missing=2, extra=3, changed=4),
    counts=Counter(
        {
            ("runs_ended", "codes ok"): 9,
            ("runs_ended", "odd name error"): 2,
            ("slices_failed", ""): 1,
            ("stages", "optimize"): 2,
            ("stage_ms", "optimize"): 3000,
        }
    ),
    reads=[SourceReads("pqs.example:8765", limit=4, in_use=3, waiting=5, halvings=2)],
)


class Once(Collector):
    """One scrape of ``FULL``."""

    def collect(self) -> Iterator[Metric]:
        return families(FULL, Limits(step_s=600, raw_ttl_s=432_000, query_lag_s=7200))


def served() -> dict[str, dict[str, set[str]]]:
    """Sample name → label → the values it is served with."""
    registry = CollectorRegistry()
    registry.register(Once())
    found: dict[str, dict[str, set[str]]] = {"up": {}}
    for family in registry.collect():
        for sample in family.samples:
            labels = found.setdefault(sample.name, defaultdict(set))
            for label, value in sample.labels.items():
                labels[label].add(value)
    return found


SERVED = served()


def children(node: Any) -> Iterator[Any]:
    """The expressions right below one."""
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None:
            yield child
    yield from getattr(node, "args", None) or []


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector below an expression, itself included."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for child in children(node):
        yield from selectors(child)


def grouped(node: Any) -> Iterator[tuple[Any, list[str]]]:
    """Every expression that names labels (``by``, ``on``), with those."""
    modifier = getattr(node, "modifier", None)
    named = getattr(modifier, "matching", modifier)
    if named is not None and hasattr(named, "labels"):
        yield node, list(named.labels)
    for child in children(node):
        yield from grouped(child)


def labels_of(node: Any) -> set[str]:
    """Labels that any metric below the expression has."""
    return {label for each in selectors(node) for label in SERVED.get(each.name, {})} | EVERYWHERE


def faults(expression: str) -> list[str]:
    """What is wrong with an expression: unknown metrics, labels, and values of labels whose values are known."""
    tree = promql_parser.parse(expression)
    found = []
    for each in selectors(tree):
        if each.name not in SERVED:
            found.append(f"no metric {each.name}")
            continue
        for matcher in each.matchers.matchers:
            known = SERVED[each.name].get(matcher.name)
            if known is None and matcher.name not in EVERYWHERE:
                found.append(f"{each.name} has no label {matcher.name}")
            elif known is not None and str(matcher.op) == "MatchOp.Equal" and matcher.value not in known:
                found.append(f"{each.name} is never {matcher.name}={matcher.value}")
    for node, names in grouped(tree):
        found += [f"no label {name} to group by" for name in names if name not in labels_of(node)]
    return found


def expressions() -> list[tuple[str, str]]:
    """(where, expression) of all rules and panels."""
    return [(rule["alert"], rule["expr"]) for rule in RULES] + [
        (f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]
    ]


@pytest.mark.parametrize(("where", "expression"), expressions(), ids=[where for where, _ in expressions()])
def test_every_expression_parses_and_asks_for_what_is_served(where: str, expression: str) -> None:
    assert faults(expression) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("etl_lags_seconds > 3", "no metric etl_lags_seconds"),
        ("etl_rows_read", "no metric etl_rows_read"),  # it is served as …_total
        ('increase(etl_publishes{states="error"}[1h])', "etl_publishes has no label states"),
        ('etl_publishes{state="failed"}', "etl_publishes is never state=failed"),
        ("sum by (stages) (etl_publish_stage_seconds_sum)", "no label stages to group by"),
        ("time() - etl_lag_seconds > on (host) etl_step_seconds", "no label host to group by"),
    ],
)
def test_the_check_would_find(expression: str, fault: str) -> None:
    assert faults(expression) == [fault]


def test_what_is_no_promql_is_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        faults("sum(etl_lag_seconds")


def test_every_alert_says_what_and_what_to_type() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "runbook"}
        if "for" in rule:
            assert re.fullmatch(r"\d+[smh]", rule["for"])
        text = " ".join(rule["annotations"].values())
        runbook = rule["annotations"]["runbook"]
        typed = re.findall(r"python -m etl_tasks ([a-z]+)((?: [^ ,;:)]+)*)", runbook)
        assert typed, f"{rule['alert']}: no command"
        for command, rest in typed:
            assert command in cli.commands, rule["alert"]
            options = {name for parameter in cli.commands[command].params for name in parameter.opts}
            assert {word for word in rest.split() if word.startswith("--")} <= options, rule["alert"]
        asked = set(re.findall(r"\$labels\.(\w+)", text))
        assert asked <= labels_of(promql_parser.parse(rule["expr"])), rule["alert"]


def test_everything_that_can_go_wrong_has_an_alert() -> None:
    asked = {each.name for rule in RULES for each in selectors(promql_parser.parse(rule["expr"]))}
    assert {
        "etl_journal_up",
        "etl_lag_seconds",
        "etl_lag_allowed_seconds",
        "etl_runs_waiting_for_publish",
        "etl_last_progress_timestamp_seconds",
        "etl_last_run_timestamp_seconds",
        "etl_runs_ended_total",
        "etl_publishes",
        "etl_oldest_unpublished_seconds",
        "etl_gap_seconds",
        "etl_partitions_incomplete",
        "etl_rows_rejected_total",
        "etl_reconcile_result",
        "etl_reconcile_differing_windows",
        "etl_reconcile_timestamp_seconds",
    } <= asked


def test_every_family_is_on_the_dashboard_or_in_a_rule() -> None:
    asked = {each.name for _, expression in expressions() for each in selectors(promql_parser.parse(expression))}
    shown = {re.sub(r"_(total|sum|count)$", "", name) for name in asked}
    # What the lag says already.
    rest = {
        "etl_watermark_timestamp_seconds",
        "etl_publish_last_timestamp_seconds",
        "etl_gaps",
        "etl_unpublished_seconds",
    }
    assert {family.name for family in FAMILIES} - shown == rest


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert DASHBOARD["uid"] == "phoenix-clickhouse-etl"
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    source = yaml.safe_load((IMAGES / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"] and panel["description"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"] == {"type": source["type"], "uid": source["uid"]}
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= labels_of(promql_parser.parse(target["expr"])), panel["title"]


def test_names_are_prometheus_names_with_units() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"etl_[a-z_]+", family.name)
        assert not re.search(r"_(ms|min|hours|total|count|sum)$", family.name), family.name
        assert family.text.endswith("."), family.name
    for sample in SERVED:
        assert sample == "up" or sample.startswith("etl_")


def test_what_is_counted_is_served_with_its_labels() -> None:
    registry = CollectorRegistry()
    registry.register(Once())
    expected = {
        ("etl_runs_ended_total", ("process", "codes"), ("status", "ok")): 9,
        ("etl_runs_ended_total", ("process", "codes"), ("status", "error")): 0,
        ("etl_runs_ended_total", ("process", "odd name"), ("status", "error")): 2,
        ("etl_slices_failed_total", ("error_kind", "none")): 1,
        ("etl_publish_stage_seconds_sum", ("stage", "optimize")): 3,
        ("etl_publish_last_duration_seconds",): 2.5,
        ("etl_slices", ("process", "codes"), ("state", "planned")): 3,
        ("etl_slices", ("process", "codes:dedup"), ("state", "planned")): None,
        ("etl_reconcile_result", ("result", "different")): 1,
        ("etl_reconcile_differing_rows", ("difference", "extra")): 3,
        ("etl_reconcile_differing_windows", ("mendable", "true")): 1,
        ("etl_reconcile_differing_windows", ("mendable", "false")): 5,
        ("etl_raw_ttl_seconds",): 432_000,
        # Two hours of lag by intent and six steps of ten minutes.
        ("etl_lag_allowed_seconds",): 3 * 3600,
        ("etl_runs_waiting_for_publish", ("process", "codes")): 1,
        ("etl_runs_waiting_for_publish", ("process", "manual_codes")): 0,
        ("etl_source_reads", ("source", "pqs.example:8765"), ("state", "reading")): 3,
        ("etl_source_reads", ("source", "pqs.example:8765"), ("state", "waiting")): 5,
        ("etl_source_reads_limit", ("source", "pqs.example:8765")): 4,
        ("etl_source_reads_limit_halved_total", ("source", "pqs.example:8765")): 2,
    }
    assert {key: registry.get_sample_value(key[0], dict(key[1:])) for key in expected} == expected  # type: ignore[arg-type]


def test_lanes() -> None:
    names = ("codes", "manual_codes", "codes:dedup", "manual_codes:dedup", "codes_before", "manual_other")
    lanes = ["schedule", "manual", "publish", "publish", "other", "other"]
    assert [lane_of(name, "codes") for name in names] == lanes
