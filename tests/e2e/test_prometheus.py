"""The dashboard and the alerts on the running system, with a real Prometheus where there is one on the PATH."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from headway.running import RunningHeadway, free_port
from headway.testing import wait_until

DEPLOY = Path(__file__).parent.parent.parent / "deploy"

PICKY = """
import os
from headway import Model

class Picky(Model):
    def predict(self, inputs):
        if "exit" in inputs:
            os._exit(3)
        if None in inputs:
            raise ValueError("none")
        return inputs
"""

#: What nothing in a healthy minute makes a series of.
QUIET = {
    "headway_dead_hints_total",
    "headway_device_deaths_total",
    "headway_lost_attempts_total",
    "headway_recovered_hints_total",
}


@pytest.fixture
def headway(tmp_path: Path) -> Iterator[RunningHeadway]:
    version = tmp_path / "models" / "picky" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(PICKY)
    with RunningHeadway(tmp_path, options=["--metrics-port", str(free_port())]) as running:
        yield running


def metrics_urls(running: RunningHeadway) -> list[str]:
    """Of every process, as its log names them."""
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    named = [line["message"].removeprefix("metrics at ") for line in lines if "metrics_port" in line]
    return [f"{running.control_url}/metrics", *named]


def total(pages: Iterable[str], series: str) -> float:
    """Over all processes, of the samples whose name and labels begin like this."""
    lines = [line for page in pages for line in page.splitlines() if line.startswith(series)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def work(running: RunningHeadway) -> None:
    for instances in ([1, 2, 3], [None]):
        httpx.post(f"{running.data_url}/v1/models/picky:predict", json={"instances": instances}, timeout=30)


def test_the_api_each_worker_and_the_utility_worker_have_metrics(headway: RunningHeadway) -> None:
    work(headway)
    urls = metrics_urls(headway)
    assert len(urls) == 3
    pages = [httpx.get(url).text for url in urls]
    assert [total([page], "headway_workers ") for page in pages] == [1, 0, 0]  # the API's alone
    assert total(pages, "headway_batch_size_sum{") == 4
    assert total(pages, 'headway_predictions_ended_total{model="picky",status="succeeded",version="1"}') == 3
    assert total(pages, 'headway_failures_total{code="model_error",model="picky",version="1"}') == 1
    assert any("headway_dead_workers_total 0.0" in page for page in pages)


def test_a_prediction_that_kills_is_counted_and_named_in_the_log(headway: RunningHeadway) -> None:
    url = f"{headway.data_url}/v1/models/picky/predictions"
    killer = httpx.post(url, json={"input": "exit"}, headers={"Prefer": "wait=50"}, timeout=60).json()
    assert killer["error"]["code"] == "worker_lost"
    pages = [httpx.get(url).text for url in metrics_urls(headway)]
    labels = 'model="picky",reason="device_lost",version="1"'
    assert total(pages, f"headway_lost_attempts_total{{{labels}}}") == 3  # max_attempts
    assert total(pages, "headway_device_deaths_total{") == 3
    assert total(pages, 'headway_failures_total{code="worker_lost",') == 1
    named = [line for line in headway.log.read_text().splitlines() if f'"prediction_id": "{killer["id"]}"' in line]
    assert len(named) == 3


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus on the PATH")
def test_every_query_of_the_dashboard_and_every_alert_answers(headway: RunningHeadway, tmp_path: Path) -> None:
    targets = [url.removeprefix("http://").removesuffix("/metrics") for url in metrics_urls(headway)]
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus" / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "api", "static_configs": [{"targets": targets[:1]}]},
            {"job_name": "worker", "static_configs": [{"targets": targets[1:]}]},
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    url = f"http://127.0.0.1:{free_port()}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stderr=log,
        )
    try:
        wait_until(lambda: _ready(url), 20, "Prometheus")

        def scraped() -> bool:
            work(headway)  # again and again: a rate needs two samples with something between them
            return bool(query(url, 'sum(rate(headway_failures_total{code="model_error"}[1m])) > 0'))

        wait_until(scraped, 30, "Prometheus to have scraped all parts twice")
        dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "headway.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
                answer = query(url, expression)
                assert answer or any(series in expression for series in QUIET), expression
        wait_until(lambda: all(rule["health"] == "ok" for rule in _rules(url)), 10, "all rules to be evaluated")
        assert [rule["name"] for rule in _rules(url) if rule["state"] == "firing"] == []
    finally:
        process.kill()
        process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


def _rules(url: str) -> list[dict[str, Any]]:
    return [rule for group in httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"] for rule in group["rules"]]


def query(url: str, expression: str) -> list[Any]:
    """The samples of an instant query."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", (expression, answer)
    found: list[Any] = answer["data"]["result"]
    return found
