#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The saved objects of Kibana and OpenSearch Dashboards, deploy/dashboards.ndjson, from what is readable here.

In the file each line is an object, and most of it is JSON in strings of JSON. One file does for both: the
formats are those of the versions below, which OpenSearch Dashboards has kept and later Kibanas convert.
What is here is tested by tests/opensearch/test_dashboards.py, with what is in the file.

usage: dashboards.py [--write]      prints it; --write: into the file
"""

import json
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "deploy/dashboards.ndjson"
# Neither may be newer than what the importing side knows.
VERSIONS = {"index-pattern": "7.6.0", "search": "7.9.3", "visualization": "7.10.0", "dashboard": "7.9.3"}
PATTERN = "huatuo-records"
SOURCE = "kibanaSavedObjectMeta.searchSourceJSON"
WIDTH = 48  # of a dashboard, by definition

# ---- what is chosen


def condition(kind, key, negate, **rest):
    return {"$state": {"store": "appState"}, "meta": {"alias": None, "disabled": False, "key": key, "negate": negate, "type": kind, **rest}}


def is_(field, value, negate=False):
    return {**condition("phrase", field, negate, params={"query": value}), "query": {"match_phrase": {field: value}}}


def is_not(field, value):
    return is_(field, value, True)


def one_of(field, *values):
    should = [{"match_phrase": {field: value}} for value in values]
    return {
        **condition("phrases", field, False, params=list(values), value=", ".join(values)),
        "query": {"bool": {"minimum_should_match": 1, "should": should}},
    }


def exists(field, negate=False):
    return {**condition("exists", field, negate, value="exists"), "exists": {"field": field}}


# A closing record says how many more there were of one that is there.
COUNT = "tracer_data.repeat.count"
RECORDED = exists(COUNT, negate=True)
EVENTS = [is_not("tracer_name", "coverage"), RECORDED]
GAPS = [is_("tracer_name", "coverage"), one_of("tracer_data.change", "lost", "failed", "end")]


def of(*names):
    return [is_("tracer_name", names[0]) if len(names) == 1 else one_of("tracer_name", *names), RECORDED]


# ---- what is shown of the records of a kind; each begins with the host and the sentence

COLUMNS = {
    "softirq": "what offtime cpu comm place steal_ns",
    "dropwatch": "reason place direction device saddr sport daddr dport owner_comm",
    "net_rx_latency": "where latency_ms most_in comm saddr daddr",
    "oom": "victim_process_name victim_rss_bytes limit_cgroup limit_bytes trigger_process_name",
    "softlockup": "cpu comm duration_ms context",
    "hungtask": "process_name comm where duration_ms blocked_count",
    "directreclaim": "comm deltatime scope limit_cgroup limit_bytes",
    "netdev_event": "ifname linkstatus changes operstate comm",
    "lacp": "bond direction slaves slaves_carrying",
}
ANY_KIND = ["hostname", "tracer_name", "summary", "container_id", "process.comm", "process.cmdline"]

# id: title, columns, filters, query
SEARCHES = {
    "huatuo-events": ("HUATUO: all events", ANY_KIND, [is_not("tracer_name", "coverage")], ""),
    "huatuo-host": ("HUATUO: all of one host (write its name for *)", ANY_KIND, [], "hostname : *"),
    "huatuo-container": ("HUATUO: all of one container (write its id for *)", ANY_KIND, [], "container_id : *"),
    "huatuo-lost": (
        "HUATUO: what was lost, or not watched",
        ["hostname", "summary", *(f"tracer_data.{name}" for name in "event change lost since reason".split())],
        GAPS,
        "",
    ),
}
for name, columns in COLUMNS.items():
    shown = ["hostname", "summary", *(f"tracer_data.{column}" for column in columns.split())]
    SEARCHES[f"huatuo-{name}"] = (f"HUATUO: {name}", shown, [is_("tracer_name", name)], "")

# ---- charts and tables


def agg(kind, schema, label, **params):
    return {"enabled": True, "type": kind, "schema": schema, "params": {**params, **({"customLabel": label} if label else {})}}


def total(label, field=None, kind="sum"):
    return agg(kind, "metric", label, field=field) if field else agg("count", "metric", label)


def by_time():
    return agg("date_histogram", "segment", "", field="time", interval="auto", min_doc_count=1, drop_partials=False, extended_bounds={})


def by(field, label, schema="bucket", size=10, order="1", missing=None):
    """The most frequent values of a field: by the metric whose number is `order`."""
    return agg(
        "terms", schema, label, field=field, orderBy=order, order="desc", size=size,
        otherBucket=False, otherBucketLabel="Other",
        missingBucket=missing is not None, missingBucketLabel=missing or "Missing",
    )


def bars(kind, label, *aggs):
    across, up = ("left", "bottom") if kind == "horizontal_bar" else ("bottom", "left")
    labels = {"show": True, "filter": True, "truncate": 100}
    series = {
        "show": True, "type": "histogram", "mode": "stacked", "data": {"label": label, "id": "1"}, "valueAxis": "ValueAxis-1",
        "drawLinesBetweenPoints": True, "lineWidth": 2, "showCircles": True,
    }
    params = {
        "type": "histogram",
        "grid": {"categoryLines": False},
        "categoryAxes": [
            {"id": "CategoryAxis-1", "type": "category", "position": across, "show": True, "style": {},
             "scale": {"type": "linear"}, "labels": labels, "title": {}},
        ],
        "valueAxes": [
            {"id": "ValueAxis-1", "name": "LeftAxis-1", "type": "value", "position": up, "show": True, "style": {},
             "scale": {"type": "linear", "mode": "normal"}, "labels": {**labels, "rotate": 0}, "title": {"text": label}},
        ],
        "seriesParams": [series],
        "addTooltip": True, "addLegend": True, "legendPosition": "right", "times": [], "addTimeMarker": False,
        "labels": {"show": False},
        "thresholdLine": {"show": False, "value": 10, "width": 1, "style": "full", "color": "#E7664C"},
    }
    return kind, params, [total(label), *aggs]


def table(*aggs):
    params = {
        "perPage": 10, "showPartialRows": False, "showMetricsAtAllLevels": False,
        "sort": {"columnIndex": None, "direction": None}, "showTotal": False, "totalFunc": "sum", "percentageCol": "",
    }
    return "table", params, list(aggs)


def controls(**fields):
    options = {"type": "terms", "multiselect": True, "dynamicOptions": True, "size": 5, "order": "desc"}
    choices = [
        {"id": field, "fieldName": field, "parent": "", "label": label, "type": "list", "options": options,
         "indexPatternRefName": f"control_{i}_index_pattern"}
        for i, (field, label) in enumerate(fields.items())
    ]
    return "input_control_vis", {"controls": choices, "updateFiltersOnChange": True, "useTimeFilter": True, "pinFilters": False}, []


def data(name):
    return f"tracer_data.{name}"


HOST = by("hostname", "host")
RECORDS = total("records")

# id: title, filters, what it is
CHARTS = {
    "huatuo-choose": ("HUATUO: choose", [], controls(hostname="Host", tracer_name="Event", container_id="Container")),
    "huatuo-over-time": (
        "HUATUO: events over time", EVENTS, bars("histogram", "records", by_time(), by("tracer_name", "event", "group", 20)),
    ),
    "huatuo-by-host": (
        "HUATUO: hosts with most events", EVENTS,
        bars("horizontal_bar", "records", by("hostname", "host", "segment", 20), by("tracer_name", "event", "group", 20)),
    ),
    "huatuo-repeats": (
        "HUATUO: more of the same, counted only", [exists(COUNT)],
        table(total("counted", COUNT), HOST, by("tracer_name", "event")),
    ),
    "huatuo-gaps": (
        "HUATUO: what was lost, or not watched", GAPS,
        table(RECORDS, total("events lost", data("lost")), HOST, by(data("event"), "event"), by(data("change"), "change")),
    ),
    "huatuo-drop-reasons": (
        "HUATUO: packets dropped, by reason and place", of("dropwatch"),
        table(RECORDS, by(data("reason"), "reason"), by(data("place"), "place")),
    ),
    "huatuo-places": (
        "HUATUO: functions of the kernel", of("dropwatch", "softirq", "hungtask"),
        # What it is called differs: a task waits, a packet or a CPU is somewhere.
        table(RECORDS, by("tracer_name", "event"), by(data("place"), "place", missing="-"), by(data("where"), "waits in", missing="-")),
    ),
    "huatuo-oom-victims": (
        "HUATUO: killed for memory", of("oom"),
        table(
            RECORDS, total("largest", data("victim_rss_bytes"), "max"),
            by(data("victim_process_name"), "process"), by(data("limit_cgroup"), "cgroup whose limit it was"), HOST,
        ),
    ),
    "huatuo-d-state": (
        "HUATUO: tasks stuck in D state", of("hungtask"),
        table(
            RECORDS, total("longest, ms", data("duration_ms"), "max"),
            HOST, by(data("where"), "waits in"), by(data("process_name"), "process"),
        ),
    ),
    "huatuo-reclaim": (
        "HUATUO: stalls in memory reclaim", of("directreclaim"),
        table(
            total("time in reclaim", data("deltatime")), total("longest", data("deltatime"), "max"),
            by(data("comm"), "process"), by(data("limit_cgroup"), "cgroup whose limit it was", missing="(the host)"), HOST,
        ),
    ),
    "huatuo-latency": (
        "HUATUO: packets received late", of("net_rx_latency"),
        table(
            RECORDS, total("longest, ms", data("latency_ms"), "max"),
            by(data("where"), "noticed"), by(data("most_in"), "most of it", missing="-"), by(data("comm"), "process"),
        ),
    ),
    "huatuo-cpus": (
        "HUATUO: CPUs that were held", of("softirq", "softlockup"),
        table(
            RECORDS, total("longest softirq", data("offtime"), "max"), total("longest softlockup, ms", data("duration_ms"), "max"),
            HOST, by("tracer_name", "event"), by(data("comm"), "process"),
        ),
    ),
    "huatuo-links": (
        "HUATUO: network devices", of("netdev_event"),
        table(RECORDS, HOST, by(data("ifname"), "device"), by(data("linkstatus"), "what has changed")),
    ),
    "huatuo-bonds": (
        "HUATUO: LACP", of("lacp"),
        table(RECORDS, HOST, by(data("bond"), "bond"), by(data("direction"), "became")),
    ),
}

# Rows of what stands beside each other, and their height.
DASHBOARD = [
    (6, ["huatuo-choose"]),
    (16, ["huatuo-over-time", "huatuo-by-host"]),
    (14, ["huatuo-gaps", "huatuo-repeats"]),
    (16, ["huatuo-drop-reasons", "huatuo-places"]),
    (16, ["huatuo-oom-victims", "huatuo-d-state"]),
    (16, ["huatuo-reclaim", "huatuo-latency"]),
    (16, ["huatuo-cpus", "huatuo-links", "huatuo-bonds"]),
    (24, ["huatuo-events"]),
]

# How numbers are written. Those that are names have no thousands.
SHORT_TIME = {"id": "duration", "params": {"inputFormat": "nanoseconds", "outputFormat": "asMilliseconds", "outputPrecision": 1, "showSuffix": True}}
FORMATS = {
    **dict.fromkeys(map(data, ("offtime", "steal_ns", "deltatime", "latency_ns")), SHORT_TIME),
    **dict.fromkeys(map(data, ("victim_rss_bytes", "limit_bytes", "usage_bytes")), {"id": "bytes"}),
    **dict.fromkeys(
        ("process.pid", "process.tid", "process.ppid", *map(data, ("pid", "tid", "sport", "dport", "owner_pid", "netns", "ifindex"))),
        {"id": "number", "params": {"pattern": "0"}},
    ),
}

# ---- as saved objects


def packed(value):
    return json.dumps(value, separators=(",", ":"))


def saved(kind, key, attributes, references=()):
    return {
        "type": kind, "id": key, "attributes": attributes, "migrationVersion": {kind: VERSIONS[kind]},
        "references": [{"name": name, "type": target, "id": other} for name, target, other in references],
    }


def source(filters, query="", **more):
    """What is searched, and the references that it holds."""
    names = [f"{SOURCE}.index", *(f"{SOURCE}.filter[{i}].meta.index" for i in range(len(filters)))]
    filters = [{**f, "meta": {**f["meta"], "indexRefName": name}} for f, name in zip(filters, names[1:])]
    whole = {**more, "query": {"query": query, "language": "kuery"}, "filter": filters, "indexRefName": names[0]}
    return {"searchSourceJSON": packed(whole)}, [(name, "index-pattern", PATTERN) for name in names]


def search(key, title, columns, filters, query):
    meta, references = source(filters, query, highlightAll=True, version=True)
    attributes = {
        "title": title, "description": "", "hits": 0, "columns": columns, "sort": [["time", "desc"]], "version": 1,
        "kibanaSavedObjectMeta": meta,
    }
    return saved("search", key, attributes, references)


def chart(key, title, filters, what):
    kind, params, aggs = what
    meta, references = source(filters)
    if kind == "input_control_vis":
        meta = {"searchSourceJSON": packed({"query": {"query": "", "language": "kuery"}, "filter": []})}
        references = [(control["indexPatternRefName"], "index-pattern", PATTERN) for control in params["controls"]]
    state = {"title": title, "type": kind, "params": params, "aggs": [{"id": str(i), **one} for i, one in enumerate(aggs, 1)]}
    attributes = {
        "title": title, "description": "", "visState": packed(state), "uiStateJSON": "{}", "version": 1, "kibanaSavedObjectMeta": meta,
    }
    return saved("visualization", key, attributes, references)


def dashboard():
    panels, references, y = [], [], 0
    for height, row in DASHBOARD:
        width = WIDTH // len(row)
        for column, key in enumerate(row):
            n = len(panels)
            panels.append({
                "version": "7.9.3", "panelIndex": str(n), "panelRefName": f"panel_{n}", "embeddableConfig": {},
                "gridData": {"x": column * width, "y": y, "w": width, "h": height, "i": str(n)},
            })
            references.append((f"panel_{n}", "visualization" if key in CHARTS else "search", key))
        y += height
    attributes = {
        "title": "HUATUO: what happened", "description": "Which anomalies the kernels of the fleet met, where, and whose they were",
        "hits": 0, "version": 1, "panelsJSON": packed(panels), "optionsJSON": packed({"useMargins": True, "hidePanelTitles": False}),
        "timeRestore": True, "timeFrom": "now-24h", "timeTo": "now", "refreshInterval": {"pause": True, "value": 0},
        "kibanaSavedObjectMeta": {"searchSourceJSON": packed({"query": {"query": "", "language": "kuery"}, "filter": []})},
    }
    return saved("dashboard", "huatuo-what-happened", attributes, references)


def objects():
    yield saved("index-pattern", PATTERN, {"title": "huatuo*", "timeFieldName": "time", "fieldFormatMap": packed(FORMATS)})
    for key, words in SEARCHES.items():
        yield search(key, *words)
    for key, words in CHARTS.items():
        yield chart(key, *words)
    yield dashboard()


def text():
    return "".join(packed(one) + "\n" for one in objects())


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text(), encoding="utf-8")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        sys.stdout.write(text())
