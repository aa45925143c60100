# SPDX-License-Identifier: Apache-2.0
"""deploy/dashboards.ndjson: each search, chart and choice is sent to real servers as Kibana and OpenSearch
Dashboards send it, about records that agents wrote, and finds what it should and nothing else.

What they make of a saved object: `build_opensearch_query.ts`, `from_filters.ts` and `aggs/buckets/terms.ts` below
src/plugins/data/common of OpenSearch Dashboards, which are Kibana 7.10's.
"""

import copy
import json
import os
import re
import urllib.error
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cluster import WITH_STREAMS
from dropwatch import drop_all, flood, flood_program, hosts, start  # noqa: F401 (fixtures)
from harness import wait_until
from memory import cgroup  # noqa: F401 (a fixture)
from there import MINUTE, set_up, wait_there
from upload import begin, huatuo

ROOT = Path(__file__).parents[2]
OBJECTS = [json.loads(line) for line in (ROOT / "deploy/dashboards.ndjson").read_text().splitlines()]
SOURCE = "kibanaSavedObjectMeta.searchSourceJSON"
TIME = "time"
CONTAINER = "c0ffee" * 10 + "c0de"

# ---- what should be found: by a record, not by a query


def events(*names):
    """Records of events, without those that say how many more there were."""
    return lambda r: r["tracer_name"] in names and "repeat" not in r["tracer_data"]


def any_event(record):
    return record["tracer_name"] != "coverage" and "repeat" not in record["tracer_data"]


def gap(record):
    return record["tracer_name"] == "coverage" and record["tracer_data"]["change"] in ("lost", "failed", "end")


def kind(name):
    return lambda r: r["tracer_name"] == name


KINDS = ("softirq", "dropwatch", "net_rx_latency", "oom", "softlockup", "hungtask", "directreclaim", "netdev_event", "lacp")
FINDS = {
    "huatuo-events": lambda r: r["tracer_name"] != "coverage",
    "huatuo-host": lambda r: True,
    "huatuo-container": lambda r: "container_id" in r,
    "huatuo-lost": gap,
    **{f"huatuo-{name}": kind(name) for name in KINDS},
    "huatuo-over-time": any_event,
    "huatuo-by-host": any_event,
    "huatuo-repeats": lambda r: "count" in r["tracer_data"].get("repeat", {}),
    "huatuo-gaps": gap,
    "huatuo-drop-reasons": events("dropwatch"),
    "huatuo-places": events("dropwatch", "softirq", "hungtask"),
    "huatuo-oom-victims": events("oom"),
    "huatuo-d-state": events("hungtask"),
    "huatuo-reclaim": events("directreclaim"),
    "huatuo-latency": events("net_rx_latency"),
    "huatuo-cpus": events("softirq", "softlockup"),
    "huatuo-links": events("netdev_event"),
    "huatuo-bonds": events("lacp"),
}

# ---- what is in the file


def of_type(name):
    return {one["id"]: one for one in OBJECTS if one["type"] == name}


def source_of(one):
    return json.loads(one["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])


def state_of(one):
    return json.loads(one["attributes"]["visState"])


def is_chart(one):
    return one["type"] == "visualization" and state_of(one)["type"] != "input_control_vis"


SEARCHES = [key for key in of_type("search")]
CHARTS = [key for key, one in of_type("visualization").items() if is_chart(one)]
CONTROLS = [(key, c["fieldName"]) for key, one in of_type("visualization").items() if not is_chart(one) for c in state_of(one)["params"]["controls"]]


def fields_of(one):
    """(field, whether its values are put together) for each that an object names."""
    attributes = one["attributes"]
    for name in (attributes.get("timeFieldName"), *json.loads(attributes.get("fieldFormatMap", "{}")), *attributes.get("columns", [])):
        if name:
            yield name, False
    for name, _ in attributes.get("sort", []):
        yield name, True
    if "kibanaSavedObjectMeta" in attributes:
        source = source_of(one)
        for condition in source["filter"]:
            yield condition["meta"]["key"], False
            clause = condition.get("query") or {"exists": condition["exists"]}
            for name in re.findall(r'"(?:match_phrase": ?{|exists": ?{"field": ?)"([\w.]+)"', json.dumps(clause)):
                yield name, False
        if source["query"]["query"]:
            yield source["query"]["query"].partition(" : ")[0], False
    if "visState" in attributes:
        state = state_of(one)
        for agg in state["aggs"]:
            if "field" in agg["params"]:
                yield agg["params"]["field"], True
        for control in state["params"].get("controls", []):
            yield control["fieldName"], True


def complaints(objects, known):
    """Fields that no index has, or whose values cannot be put together."""
    for one in objects:
        for field, together in fields_of(one):
            types = known.get(field, {})
            if not types:
                yield f"{one['id']}: there is no field {field}"
            elif len(types) > 1:
                yield f"{one['id']}: {field} is of several types: {', '.join(types)}"
            elif together and not all(t["aggregatable"] for t in types.values()):
                yield f"{one['id']}: {field} cannot be put together"


# ---- what is sent


QUESTION = re.compile(r'([\w.]+) : ("[^"]+"|[\w.*-]+)')


def kuery(text):
    """Of that language this much is used, and recommended: FIELD : VALUE, "VALUE", *VALUE* or *."""
    if not text:
        return {"match_all": {}}
    field, value = QUESTION.fullmatch(text).groups()
    if value == "*":
        clause = {"exists": {"field": field}}
    elif value[0] == '"':
        clause = {"match_phrase": {field: value.strip('"')}}
    elif "*" in value:
        clause = {"query_string": {"fields": [field], "query": value}}
    else:
        clause = {"match": {field: value}}
    return {"bool": {"should": [clause], "minimum_should_match": 1}}


def query_of(source, since, until):
    assert source["query"]["language"] == "kuery"
    conditions = {False: [kuery(source["query"]["query"])], True: []}
    for condition in source["filter"]:
        clause = condition.get("query") or {k: v for k, v in condition.items() if k not in ("meta", "$state")}
        conditions[condition["meta"]["negate"]].append(clause)
    ends = {"gte": since.isoformat(timespec="milliseconds"), "lte": until.isoformat(timespec="milliseconds")}
    conditions[False].append({"range": {TIME: {**ends, "format": "strict_date_optional_time"}}})
    return {"bool": {"must": [], "filter": conditions[False], "should": [], "must_not": conditions[True]}}


def interval(since, until):
    return max(1, round((until - since).total_seconds() / 50))


def histogram(since, until):
    return {"field": TIME, "fixed_interval": f"{interval(since, until)}s", "time_zone": "UTC", "min_doc_count": 1}


def discover(one, dates, since, until, source=None):
    """What Discover asks, but for more records than its first 500."""
    return {
        "version": True,
        "size": 10000,
        "track_total_hits": True,
        "sort": [{field: {"order": order, "unmapped_type": "boolean"}} for field, order in one["attributes"]["sort"]],
        "aggs": {"2": {"date_histogram": histogram(since, until)}},
        "stored_fields": ["*"],
        "script_fields": {},
        "docvalue_fields": [{"field": name, "format": "date_time" if t == "date" else "strict_date_time"} for name, t in dates],
        "_source": {"excludes": []},
        "query": query_of(source or source_of(one), since, until),
        "highlight": {
            "pre_tags": ["@highlighted@"], "post_tags": ["@/highlighted@"], "fields": {"*": {}}, "fragment_size": 2147483647,
        },
    }


def metrics_of(state):
    return {agg["id"]: agg for agg in state["aggs"] if agg["schema"] == "metric"}


def buckets_of(state):
    return [agg for agg in state["aggs"] if agg["schema"] != "metric"]


def metric(agg):
    return {agg["type"]: {"field": agg["params"]["field"]}}


def order_of(bucket, metrics):
    """The metric by which values are sorted; None: by how many there are."""
    agg = metrics[bucket["params"]["orderBy"]]
    return None if agg["type"] == "count" else agg


def aggs_of(state, since, until):
    metrics = metrics_of(state)
    inner = {key: metric(agg) for key, agg in metrics.items() if agg["type"] != "count"}
    for bucket in reversed(buckets_of(state)):
        params = bucket["params"]
        if bucket["type"] == "date_histogram":
            one = {"date_histogram": histogram(since, until)}
        else:
            order = order_of(bucket, metrics)
            terms = {"field": params["field"], "size": params["size"], "order": {order["id"] if order else "_count": params["order"]}}
            if params["missingBucket"]:
                terms["missing"] = "__missing__"
            if order:
                inner = {**inner, order["id"]: metric(order)}
            one = {"terms": terms}
        inner = {bucket["id"]: {**one, "aggs": inner}}
    return inner


def ask(cluster, body):
    """A search, after the server has said that it understands the query."""
    said = cluster.ask("POST", "/huatuo*/_validate/query?explain=true", {"query": body["query"]})
    assert said["valid"], said
    try:
        return cluster.ask("POST", "/huatuo*/_search?allow_partial_search_results=false", body)
    except urllib.error.HTTPError as error:
        pytest.fail(f"{body}:\n{error.read().decode()}")


# ---- what should come of it


def value_at(record, field):
    for step in field.split("."):
        if not isinstance(record, dict) or step not in record:
            return None
        record = record[step]
    return record


def measured(records, agg):
    if agg["type"] == "count":
        return len(records)
    values = [v for v in (value_at(r, agg["params"]["field"]) for r in records) if v is not None]
    return {"sum": sum, "max": lambda v: max(v, default=None)}[agg["type"]](values)


def moment_of(record):
    return datetime.strptime(record[TIME], "%Y-%m-%d %H:%M:%S.%f %z")


def key_of(record, bucket, step_s):
    if bucket["type"] == "date_histogram":
        return int(moment_of(record).timestamp()) // step_s * step_s * 1000
    value = value_at(record, bucket["params"]["field"])
    return "__missing__" if value is None and bucket["params"]["missingBucket"] else value


def compare(found, state, records, step_s):
    """Each value that is shown, with its numbers; that those that are not shown are the lesser ones, and that no
    record is left out, as one would be that lacks the field."""
    metrics = metrics_of(state)

    def level(aggregations, buckets, records):
        if not buckets:
            for key, agg in metrics.items():
                if agg["type"] != "count":
                    assert aggregations[key]["value"] == measured(records, agg)
            return
        bucket, *rest = buckets
        groups = defaultdict(list)
        for record in records:
            groups[key_of(record, bucket, step_s)].append(record)
        assert None not in groups, (bucket["params"]["field"], groups[None][0])
        shown = {one["key"]: one for one in aggregations[bucket["id"]]["buckets"]}
        if bucket["type"] == "date_histogram" or len(groups) <= bucket["params"]["size"]:
            assert set(shown) == set(groups)
        else:
            assert len(shown) == bucket["params"]["size"] and set(shown) < set(groups)
            order = order_of(bucket, metrics) or {"type": "count"}
            size = {key: measured(group, order) for key, group in groups.items()}
            assert min(size[key] for key in shown) >= max(size[key] for key in set(groups) - set(shown))
        for key, one in shown.items():
            assert one["doc_count"] == len(groups[key])
            level(one, rest, groups[key])

    level(found, buckets_of(state), records)


# ---- records that agents wrote


def of_pages():
    """The real ones that the documentation shows, of all kinds."""
    for page in [ROOT / "docs/records.md", *sorted((ROOT / "docs/events").glob("*.md"))]:
        for block in re.findall(r"^```json\n(.*?)^```", page.read_text(), re.M | re.S):
            record = json.loads(block)
            if "tracer_id" in record:
                yield record


def export(store, *words):
    code, output, errors = huatuo("export", "--to", "ndjson", "--store", store, *words)
    assert code == 0, errors
    return [json.loads(line) for line in output.splitlines()]


def provoked(agent, group, host):
    """What --demo makes happen here; and the same once more in a container."""
    one = agent("--demo", "--set", "hungtask.threshold=1s", "--set", f"agent.hostname={host}")
    group = group(f"docker-{CONTAINER}.scope")
    binary = os.environ.get("HUATUO") or ROOT / "build-test/huatuo"

    def in_container():
        group.enter()
        os.execv(binary, [str(binary), "try", "net_rx_latency", "--store", str(one.store)])

    pid = os.fork()
    if pid == 0:
        try:
            in_container()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    wanted = {"dropwatch", "oom", "directreclaim", "net_rx_latency", "netdev_event", "hungtask"}

    def enough():
        records = one.records()
        return wanted <= {r["tracer_name"] for r in records} and any(r.get("container_id") == CONTAINER for r in records)

    wait_until(enough, MINUTE, lambda: f"events; there are {one.status()['events']}")
    one.stop()
    return export(one.store)


def not_watched(agent, hosts, flood):  # noqa: F811
    """A kind that cannot be watched; and events that are lost, as there are too many."""
    off = "tp_btf/kfree_skb,raw_tp/kfree_skb,tp/skb/kfree_skb"
    one = agent("--events", "dropwatch", "--set", f"dropwatch.hooks_off={off}", ready=False)
    assert one.wait_end() == 1
    yield from export(one.store, "--event", "coverage")
    drop_all(hosts[0], "cli0")
    one = start(agent, dropwatch__ring_size="4KiB", dropwatch__repeat_keys="65536")
    flood(hosts[0], 4, 65535, 1000, 20000, keys=20000)
    wait_until(lambda: "lost" in {r["tracer_data"]["change"] for r in one.records("coverage")}, 10, "losses")
    one.stop()
    yield from export(one.store, "--event", "coverage")


HOST = "dashboards-1.example"
made = []  # once for all servers


@pytest.fixture
def records(agent, cgroup, hosts, flood):  # noqa: F811
    """{id: record}"""
    if not made:
        made.extend([*of_pages(), *provoked(agent, cgroup, HOST), *not_watched(agent, hosts, flood)])
        assert set(KINDS) | {"coverage"} <= {r["tracer_name"] for r in made}
    return {record["tracer_id"]: record for record in made}


class Served:
    """A server that has these records, and what it says of them."""

    def __init__(self, cluster, records, folder):
        self.cluster, self.records = cluster, records
        self.send(list(records.values()), folder)
        self.known = cluster.ask("GET", "/huatuo*/_field_caps?fields=*")["fields"]
        self.dates = [(name, t) for name, types in self.known.items() for t in types if t in ("date", "date_nanos")]
        moments = sorted(map(moment_of, records.values()))
        self.since, self.until = moments[0] - timedelta(hours=1), moments[-1] + timedelta(hours=1)

    def send(self, records, folder):
        """In this order."""
        file, store = folder / "records.ndjson", folder / f"store-{self.cluster.product}"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        code, output, errors = huatuo("import", file, "--store", store)
        assert (code, errors) == (0, ""), errors
        code, output, errors = huatuo("export", "--to", "elasticsearch", "--store", store, "--set", f"elasticsearch.url={self.cluster.url}")
        assert (code, errors) == (0, ""), output + errors
        self.cluster.ask("POST", "/huatuo*/_refresh")

    def of(self, key):
        """What an object should find."""
        return [record for record in self.records.values() if FINDS[key](record)]


@pytest.fixture
def served(clean, records, tmp_path):
    return Served(clean, records, tmp_path)


# ---- the tests


def test_objects():
    """Whole, and of a form that both import: references lead somewhere, nothing has a name that is not stored."""
    # The mappings of saved objects are strict: what is not of these is refused.
    attributes = {
        "index-pattern": {"title", "timeFieldName", "fieldFormatMap"},
        "search": {"title", "description", "hits", "columns", "sort", "version", "kibanaSavedObjectMeta"},
        "visualization": {"title", "description", "visState", "uiStateJSON", "version", "kibanaSavedObjectMeta"},
        "dashboard": {
            "title", "description", "hits", "version", "panelsJSON", "optionsJSON", "timeRestore", "timeFrom", "timeTo",
            "refreshInterval", "kibanaSavedObjectMeta",
        },
    }
    ids = [one["id"] for one in OBJECTS]
    assert len(set(ids)) == len(ids) and len({one["attributes"]["title"] for one in OBJECTS}) == len(ids) - 1
    there = {(one["type"], one["id"]) for one in OBJECTS}
    for one in OBJECTS:
        assert set(one) == {"type", "id", "attributes", "migrationVersion", "references"}
        assert set(one["attributes"]) == attributes[one["type"]], one["id"]
        assert set(one["migrationVersion"]) == {one["type"]}
        assert {(r["type"], r["id"]) for r in one["references"]} <= there, one["id"]
        texts = [json.loads(v) for k, v in one["attributes"].items() if k.endswith("JSON") or k == "visState"]
        if one["type"] != "index-pattern":
            texts.append(source_of(one))
        wanted = re.findall(r'RefName": "([^"]+)"', json.dumps(texts))
        assert sorted(wanted) == sorted(r["name"] for r in one["references"]), one["id"]
    assert f'{{"successCount":{len(OBJECTS)},' in (ROOT / "docs/elasticsearch.md").read_text()
    (pattern,) = of_type("index-pattern").values()
    assert pattern["attributes"]["title"] == "huatuo*" and pattern["attributes"]["timeFieldName"] == TIME
    assert set(SEARCHES + CHARTS) == set(FINDS)
    # On the dashboard is each chart, and none lies upon another.
    (whole,) = of_type("dashboard").values()
    panels = json.loads(whole["attributes"]["panelsJSON"])
    assert set(of_type("visualization")) < {r["id"] for r in whole["references"]}
    taken = set()
    for grid in (panel["gridData"] for panel in panels):
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert grid["x"] + grid["w"] <= 48 and not cells & taken
        taken |= cells


def test_first_record(clean, agent):
    """There are charts of what has not happened yet: their fields are known as soon as anything is there. A chart
    of a field that is not says that it cannot be shown, and Dashboards remembers which fields there were."""
    one = begin(agent, clean.url)
    wait_there(clean, one)
    known = clean.ask("GET", "/huatuo*/_field_caps?fields=*")["fields"]
    charts = list(of_type("visualization").values())
    assert list(complaints(charts, known)) == []
    until = datetime.now(timezone.utc) + timedelta(minutes=1)
    for chart in filter(is_chart, charts):
        since = until - timedelta(days=1)
        body = {"size": 0, "query": query_of(source_of(chart), since, until), "aggs": aggs_of(state_of(chart), since, until)}
        assert ask(clean, body)["hits"]["total"]["value"] == 0


def test_fields(served):
    """Each field is there, is of one type, and is in a record of those that it is shown of."""
    assert served.cluster.search(query={"exists": {"field": "_ignored"}})["total"]["value"] == 0
    assert {hit["_id"] for hit in served.cluster.search(_source=False)["hits"]} == set(served.records)
    assert list(complaints(OBJECTS, served.known)) == []
    for key in SEARCHES:
        found = served.of(key)
        for column in of_type("search")[key]["attributes"]["columns"]:
            assert any(value_at(r, column) is not None for r in found), f"{key}: no record has {column}"
    for field, form in json.loads(OBJECTS[0]["attributes"]["fieldFormatMap"]).items():
        assert list(served.known[field]) == ["long"], (field, form)


def test_misspelled(served):
    """A letter that is wrong, in any of the names, is found."""
    for i, one in enumerate(OBJECTS):
        for field in {field for field, _ in fields_of(one)}:
            wrong = copy.deepcopy(OBJECTS)
            wrong[i] = json.loads(re.sub(rf"(?<![\w.-]){field}(?![\w.-])", field[:-1] + "_", json.dumps(one)))
            assert any(f"{one['id']}: there is no field" in said for said in complaints(wrong, served.known)), field


def test_searches(served):
    for key in SEARCHES:
        one = of_type("search")[key]
        expected = sorted((r["tracer_id"] for r in served.of(key)), reverse=True)
        assert expected, f"{key}: there is nothing to find"
        hits = ask(served.cluster, discover(one, served.dates, served.since, served.until))["hits"]
        assert sorted((hit["_id"] for hit in hits["hits"]), reverse=True) == expected, key
        times = [moment_of(hit["_source"]) for hit in hits["hits"]]
        assert times == sorted(times, reverse=True)  # the newest first
        # Of a time: that of the records that were written right now.
        since = max(map(moment_of, served.records.values())) - timedelta(minutes=10)
        recent = [r["tracer_id"] for r in served.of(key) if moment_of(r) >= since]
        hits = ask(served.cluster, discover(one, served.dates, since, served.until))["hits"]["hits"]
        assert sorted(hit["_id"] for hit in hits) == sorted(recent), key


@pytest.mark.parametrize("key, field, value", [("huatuo-host", "hostname", HOST), ("huatuo-container", "container_id", CONTAINER)])
def test_one_of_many(served, key, field, value):
    """With a name written for the *."""
    one = of_type("search")[key]
    source = source_of(one)
    source["query"]["query"] = source["query"]["query"].replace("*", value)
    hits = ask(served.cluster, discover(one, served.dates, served.since, served.until, source))["hits"]["hits"]
    expected = [r["tracer_id"] for r in served.records.values() if r.get(field) == value]
    assert sorted(hit["_id"] for hit in hits) == sorted(expected) and 0 < len(expected) < len(served.records)


def test_charts(served):
    for key in CHARTS:
        one, expected = of_type("visualization")[key], served.of(key)
        assert expected, f"{key}: there is nothing to show"
        state = state_of(one)
        body = {
            "size": 0,
            "track_total_hits": True,
            "query": query_of(source_of(one), served.since, served.until),
            "aggs": aggs_of(state, served.since, served.until),
        }
        found = ask(served.cluster, body)
        assert found["hits"]["total"]["value"] == len(expected), key
        compare(found["aggregations"], state, expected, interval(served.since, served.until))


def test_choices(served):
    """What the lists above the dashboard offer."""
    assert CONTROLS
    for _, field in CONTROLS:
        body = {"size": 0, "query": {"match_all": {}}, "aggs": {"termsAgg": {"terms": {"field": field, "order": {"_count": "desc"}, "size": 5}}}}
        offered = {one["key"] for one in ask(served.cluster, body)["aggregations"]["termsAgg"]["buckets"]}
        there = {r[field] for r in served.records.values() if field in r}
        assert offered <= there and len(offered) == min(5, len(there)) > 0


def test_questions(served):
    """Those that the documentation recommends."""
    questions = re.findall(rf"`({QUESTION.pattern})`", (ROOT / "docs/elasticsearch.md").read_text())
    assert len(questions) > 3
    for text, field, _ in questions:
        assert served.known[field]
        found = {hit["_id"] for hit in ask(served.cluster, {"size": 10000, "query": kuery(text)})["hits"]["hits"]}
        if field == "tracer_data.stack":
            assert found == {key for key, r in served.records.items() if "nft_do_chain/" in r["tracer_data"].get("stack", "")} != set()


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_any_order(clean, tmp_path, backwards):
    """Kinds share indices, so what one calls a list of words is not to be another's list of objects: whoever came
    second would be refused."""
    wanted = {}
    for record in of_pages():
        # All of one day, and so of two indices; the id tells the time, too.
        moment = moment_of(record).replace(day=25)
        key = f"{int(moment.timestamp() * 1000) * 1000000:016x}{record['tracer_id'][16:]}"
        wanted[key] = {**record, "tracer_id": key, "time": moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " +0000"}
    served = Served(clean, {key: wanted[key] for key in sorted(wanted, reverse=backwards)}, tmp_path)
    assert {hit["_id"] for hit in clean.search(_source=False)["hits"]} == set(wanted)
    assert clean.search(query={"exists": {"field": "_ignored"}})["total"]["value"] == 0
    assert {field for field, types in served.known.items() if len(types) > 1} == set()


@pytest.mark.parametrize("cluster", WITH_STREAMS, indirect=True)
def test_streams(cluster, agent):
    """The same objects do for data streams."""
    cluster.ask("DELETE", "/huatuo*")
    set_up(cluster, mode="datastream")
    try:
        one = begin(agent, cluster.url, mode="datastream")
        wait_there(cluster, one)
        until = datetime.now(timezone.utc) + timedelta(minutes=1)
        known = cluster.ask("GET", "/huatuo*/_field_caps?fields=*")["fields"]
        assert list(complaints(of_type("visualization").values(), known)) == []
        body = discover(of_type("search")["huatuo-host"], [], until - timedelta(days=1), until)
        hits = ask(cluster, body)["hits"]["hits"]
        assert hits and all(hit["_source"]["tracer_name"] == "coverage" for hit in hits)
        one.stop()
    finally:
        cluster.ask("DELETE", "/_data_stream/huatuo*")
        cluster.ask("DELETE", "/_index_template/huatuo")
