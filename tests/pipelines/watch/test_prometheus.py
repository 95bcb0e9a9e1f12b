"""A real Prometheus (Debian's package) watches a run: every query of the Grafana dashboard has an answer."""

import json
import shutil
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from waiting import LIMIT_S, wait_for

from runs import distributed

DASHBOARD = json.loads(Path("deploy/grafana/fieldweave.json").read_text())
CONFIG = Path("deploy/prometheus/prometheus.yml")
RAYS_LIST = "/tmp/ray/prom_metrics_service_discovery.json"  # of the machine's newest cluster, which needn't be the test's


@pytest.fixture
def prometheus(cluster, tmp_path) -> Iterator[str]:
    """The address of a Prometheus with the shipped configuration, but faster, and with the test's cluster as its target.

    No faster than every 5 s: a scrape gets no more time than there is between two, and a busy node's metrics port may need
    seconds for an answer.
    """
    assert shutil.which("prometheus"), "install Debian's package: apt-get install prometheus"
    targets = [f"127.0.0.1:{node['MetricsExportPort']}" for node in ray.nodes()]
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": targets, "labels": {"job": "ray"}}]))
    assert RAYS_LIST in CONFIG.read_text()
    content = CONFIG.read_text().replace(RAYS_LIST, str(tmp_path / "targets.json")).replace("15s", "5s")
    (tmp_path / "prometheus.yml").write_text(content)
    address = f"127.0.0.1:{_free_port()}"
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}"]
    log = tmp_path / "prometheus.log"
    with log.open("w") as lines:
        server = subprocess.Popen([*command, f"--storage.tsdb.path={tmp_path / 'tsdb'}"], stdout=lines, stderr=lines)
    wait_for(lambda: _scraped(f"http://{address}"), lambda: f"a scrape; {_targets(f'http://{address}')}\n{log.read_text()}")
    yield f"http://{address}"
    server.terminate()
    server.wait(LIMIT_S)


def _queries() -> list[tuple[str, str]]:
    """The title of each panel, and each of its queries."""
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


@pytest.mark.slow
def test_every_query_of_the_dashboard_has_an_answer_during_a_run(prometheus, make_config):
    config = make_config("run.name=watched", "run.steps=100000", "rollout.workers=1", "learner.lag=1")
    outcomes = []
    run = threading.Thread(target=lambda: outcomes.append(distributed(config)))
    run.start()
    unanswered = _queries()

    def all_answered() -> bool:
        unanswered[:] = [(title, query) for title, query in unanswered if not _ask(prometheus, _filled(query))]
        return not unanswered

    try:
        wait_for(
            lambda: all_answered() or not run.is_alive(),
            lambda: f"an answer to {unanswered}; {_targets(prometheus)}",
            every_s=1,
        )
        assert unanswered == [], "the run ended by itself"
        starts = _ask(prometheus, _filled('ray_field_process_starts_total{process=~"$run[/-].*"}'))
    finally:
        if run.is_alive():
            ray.get(ray.get_actor("watched/learner").stop.remote())
        run.join()
    assert outcomes == [None]
    assert {row["metric"]["process"]: row["value"][1] for row in starts} == {
        "watched/learner": "1",
        "watched/rollout-0": "1",
        "watched-text_to_image": "1",
        "watched-local_edit": "1",
        "watched-global_edit": "1",
        "watched-encoder": "1",
    }
    (variable,) = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "run"]
    assert variable["query"]["query"] == "label_values(ray_field_step, run)"


@pytest.mark.slow
def test_a_query_of_another_run_has_none(prometheus):
    """Or an answer would say nothing; what counts failures is 0 without them, and does not count here."""
    assert [query for _, query in _queries() if "vector(0)" not in query and _ask(prometheus, _filled(query, "nobody"))] == []
    assert {title for title, query in _queries() if "vector(0)" in query} == {"Repeated calls"}


def test_panels_are_placed_side_by_side():
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def _filled(query: str, run: str = "watched") -> str:
    """What Grafana sends for a panel."""
    return query.replace("$run", run).replace("$__rate_interval", "60s").replace("$__range", "5m")


def _ask(prometheus: str, query: str) -> list[dict]:
    """The instant answer; NaN is none."""
    rows = _get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")["result"]
    return [row for row in rows if row["value"][1] != "NaN"]


def _scraped(prometheus: str) -> bool:
    """Whether Prometheus listens and has scraped each of its targets."""
    try:
        targets = _get(f"{prometheus}/api/v1/targets")["activeTargets"]
    except OSError:
        return False
    return bool(targets) and all(target["health"] == "up" for target in targets)


def _targets(prometheus: str) -> str:
    """What Prometheus says about its targets: address, health, and why the last scrape failed."""
    try:
        targets = _get(f"{prometheus}/api/v1/targets")["activeTargets"]
    except OSError as error:
        return f"Prometheus itself does not answer: {error}"
    said = "{scrapeUrl} is {health}, answered in {lastScrapeDuration:.2f} s, last error '{lastError}'"
    return "targets: " + ("; ".join(said.format_map(target) for target in targets) or "none")


def _get(address: str) -> dict:
    with urllib.request.urlopen(address, timeout=LIMIT_S) as answer:
        return json.load(answer)["data"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
