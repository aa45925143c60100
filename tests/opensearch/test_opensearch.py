# SPDX-License-Identifier: Apache-2.0
"""Records in real servers: each there, once, and found by what it holds."""

import json
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cluster import SERVERS, WITH_STREAMS, Guard
from harness import wait_until
from there import MINUTE, set_up, wait_there
from upload import begin, filled, huatuo, rejected, target  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[2]
CASES = ("oom", "directreclaim", "netdev_event", "lacp")


def find(cluster, **query):
    return [hit["_id"] for hit in cluster.search(query=query)["hits"]]


def ms_of(time):
    return int(datetime.strptime(time, "%Y-%m-%d %H:%M:%S.%f %z").timestamp() * 1000 + 0.5)


def utc_of(time):
    """To the millisecond, as the servers write it."""
    moment = datetime.strptime(time, "%Y-%m-%d %H:%M:%S.%f %z").astimezone(timezone.utc)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")


@pytest.fixture
def demo(agent):
    """demo(url, …): one that has recorded what --demo provokes, and still runs."""

    def start(url, **options):
        one = begin(agent, url, "--demo", events="dropwatch,oom,softirq,memreclaim,netdev", **options)

        def enough():
            names = {record["tracer_name"] for record in one.records()}
            return {"dropwatch", "oom", "netdev_event"} <= names

        wait_until(enough, MINUTE, lambda: f"events; there are {one.status()['events']}")
        return one

    return start


def test_real_events(clean, demo):
    """Those of --demo: whole, in the right index, and found by each sort of field."""
    one = demo(clean.url)
    wait_there(clean, one)
    hits = clean.search(sort=[{"time": "asc"}])["hits"]
    assert len(hits) > 4
    # Looked at afterwards: on a busy host there are more all the time, and those need not be there yet.
    there = {hit["_id"] for hit in hits}
    records = {r["tracer_id"]: r for r in one.records() + one.records("coverage") if r["tracer_id"] in there}
    for hit in hits:
        source = hit["_source"]
        assert source.pop("es_index_time") > hit["sort"][0] - 1
        assert source == records[hit["_id"]]
        # It sorts as the moment that it tells.
        assert hit["sort"] == [ms_of(source["time"])]
        cases = "_cases" if source["tracer_name"] in CASES else ""
        assert hit["_index"] == f"huatuo{cases}_{source['time'][:10]}"
    assert [hit["sort"] for hit in hits] == sorted(hit["sort"] for hit in hits)
    # No field of any record was too long, or of another type than its field.
    assert clean.search(query={"exists": {"field": "_ignored"}})["total"]["value"] == 0

    drop = next(r for r in records.values() if r["tracer_name"] == "dropwatch" and "." in r["tracer_data"].get("saddr", ""))
    data = drop["tracer_data"]
    network = data["saddr"].rpartition(".")[0] + ".0/24"
    assert drop["tracer_id"] in find(clean, term={"tracer_data.saddr": network})
    assert drop["tracer_id"] not in find(clean, term={"tracer_data.saddr": "203.0.113.0/24"})
    function = re.match(r"(\w+)/", data["stack"]).group(1)
    assert drop["tracer_id"] in find(clean, match={"tracer_data.stack": function})
    assert drop["tracer_id"] not in find(clean, match={"tracer_data.stack": "no_such_function"})
    assert drop["tracer_id"] in find(clean, term={"tracer_name": "dropwatch"})
    assert drop["tracer_id"] in find(clean, range={"tracer_data.dport": {"gte": data["dport"], "lte": data["dport"]}})


def test_every_kind(clean, tmp_path):
    """A record of each kind, in either order: none has a field that is one of another type in another kind, which
    would have all of the kind refused that comes second."""
    lines = (ROOT / "tests/full/examples.ndjson").read_text().splitlines()
    kinds = re.findall(r"'(\w+)'", re.search(r"event_names = \[(.*?)\]", (ROOT / "src/events/meson.build").read_text(), re.S)[1])
    assert len({json.loads(line)["tracer_name"] for line in lines}) == len(kinds)
    for store, order in (("first", lines), ("second", lines[::-1])):
        clean.ask("DELETE", "/huatuo*")
        (tmp_path / "file").write_text("\n".join(order))
        assert huatuo("import", tmp_path / "file", "--store", tmp_path / store)[0] == 0
        to = ["--to", "elasticsearch", "--set", f"elasticsearch.url={clean.url}", "--store", tmp_path / store]
        assert huatuo("export", *to) == (0, f"elasticsearch has {len(lines)}\n", "")
        assert clean.search()["total"]["value"] == len(lines)
        assert clean.search(query={"exists": {"field": "_ignored"}})["total"]["value"] == 0


@pytest.mark.parametrize("cluster", WITH_STREAMS, indirect=True)
def test_datastream(cluster, demo):
    """Two streams, with @timestamp; each document there once, as they are only ever created."""
    streams = {"index": "stream", "mode": "datastream"}
    set_up(cluster, **streams)
    one = demo(cluster.url, **streams)
    wait_there(cluster, one, "stream,stream_cases")
    made = cluster.ask("GET", "/_data_stream")["data_streams"]
    assert sorted(stream["name"] for stream in made) == ["stream", "stream_cases"]
    hits = cluster.search(index="stream,stream_cases", sort=[{"time": "asc"}], docvalue_fields=["@timestamp"])["hits"]
    for hit in hits:
        source = hit["_source"]
        cases = "_cases" if source["tracer_name"] in CASES else ""
        assert re.fullmatch(rf"\.ds-stream{cases}-\d+", hit["_index"])
        (timestamp,) = hit["fields"]["@timestamp"]
        assert timestamp.startswith(utc_of(source["time"]))


def test_bad_among_a_thousand(clean, agent, filled):  # noqa: F811
    """A text where an object belongs, in one record: that is refused, and the others are not."""

    def change(i, data):
        if i == 617:
            data["repeat"] = "another type"

    one = begin(agent, clean.url, store=filled(1000, change).store)
    wait_until(lambda: target(one)["rejected"] == 1, MINUTE, lambda: target(one))
    (bad,) = rejected(one)
    assert bad["record"]["tracer_data"]["number"] == 617
    assert re.match(r"400 (mapper|document)_parsing_exception: ", bad["reason"])
    wait_there(clean, one, but=[bad["record"]["tracer_id"]])
    assert target(one)["state"] == "ok"


def test_wrong_password(clean, agent, tmp_path):
    """Nothing gets through, and it says why; with the right one all of it does."""
    guard = Guard(clean, "huatuo", "geheim-1")
    try:
        (tmp_path / "password").write_text("geheim-2")
        words = {"username": "huatuo", "password_file": tmp_path / "password"}
        one = begin(agent, guard.url, **words)
        wait_until(lambda: guard.refused >= 2, MINUTE, lambda: target(one))
        assert "status 401; the user, the password" in target(one)["problem"] and target(one)["state"] == "failing"
        assert clean.search()["total"]["value"] == 0
        (tmp_path / "password").write_text("geheim-1")
        one.reload()
        wait_there(clean, one)
        assert target(one)["state"] == "ok" and "geheim" not in one.stderr
        set_up(clean, guard.url, **words)
    finally:
        guard.close()


def test_down_and_killed(clean, agent, filled):  # noqa: F811
    """Down when the agent starts; then killed in the middle of bulk requests."""
    clean.kill()
    one = begin(agent, clean.url, store=filled(9000).store, batch_size="32KiB")
    wait_until(lambda: target(one)["state"] == "failing", MINUTE, lambda: target(one))
    assert "does the server run" in target(one)["problem"] and target(one)["oldest_not_uploaded_s"] >= 0
    clean.start()
    wait_until(lambda: target(one)["uploaded"] > 500, MINUTE, lambda: target(one), every=0.02)
    clean.kill()
    state = target(one)
    assert state["uploaded"] < 9000, "it was not in the middle"
    clean.start()
    wait_there(clean, one)
    state = one.stop()["targets"]["elasticsearch"]
    assert state["rejected"] == state["deleted"] == 0 and state["uploaded"] >= 9000


def test_versions():
    """The documentation claims what is tested here, and nothing else."""
    text = (ROOT / "docs/elasticsearch.md").read_text()
    claimed = re.findall(r"(OpenSearch|Elasticsearch) (\d+\.\d+\.\d+)", text)
    assert sorted(claimed) == sorted((name, SERVERS[name.lower()][1]) for name in ("OpenSearch", "Elasticsearch"))
