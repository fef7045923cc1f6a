"""docs/operations.md is the one catalogue of the series: it has all there are, and what is watched is in it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import REGISTRY, Metric

import api.metrics
import workers.metrics
from api.scrape import WholeSystem

ROOT = Path(__file__).parent.parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "headway.json").read_text())

_ = (api.metrics, workers.metrics)  # imported for what they register


def catalogue() -> dict[str, list[str]]:
    """Series → its labels."""
    rows = re.findall(r"^\| `(headway_\w+)` \|([^|]*)\|", OPERATIONS, re.M)
    assert len(rows) == len(dict(rows)), "a series is listed twice"
    return {name: [label.strip() for label in labels.split(",") if label.strip()] for name, labels in rows}


def families() -> Iterator[Metric]:
    """Those of the API, of workers and of the utility worker."""
    yield from REGISTRY.collect()
    yield from WholeSystem(True, [], None).collect()


def exported() -> set[str]:
    """A counter is named as it is queried, with `_total`."""
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in families()
        if family.name.startswith("headway_")
    }


def queried(expression: str) -> set[str]:
    """The series of an expression; a histogram's parts count as the histogram."""
    names = set(re.findall(r"\bheadway_\w+", expression))
    known = catalogue()
    return {name if name in known else re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def anchors() -> set[str]:
    """Of the headings, as they are linked to."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _headings()}


def _headings() -> list[str]:
    return re.findall(r"^#+ (.+)$", OPERATIONS, re.M)


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def test_every_series_is_in_the_catalogue_and_the_other_way_round() -> None:
    assert exported() == set(catalogue())


def test_what_the_dashboard_queries_is_in_the_catalogue() -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert expressions
    for expression in expressions:
        names = queried(expression)
        assert names, expression
        assert names <= set(catalogue()), expression
    assert set(catalogue()) <= {name for expression in expressions for name in queried(expression)}


def test_what_the_alerts_query_is_in_the_catalogue_and_each_has_a_runbook() -> None:
    assert rules()
    for rule in rules():
        assert queried(rule["expr"]) <= set(catalogue())
        page, anchor = rule["annotations"]["runbook"].split("#")
        assert page == "docs/operations.md"
        assert anchor in anchors()


def test_every_link_within_the_page_leads_somewhere() -> None:
    assert set(re.findall(r"\]\(#([\w-]+)\)", OPERATIONS)) <= anchors()


def test_every_panel_has_a_number_and_a_place_of_its_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
