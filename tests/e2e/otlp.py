# SPDX-License-Identifier: Apache-2.0
"""A receiver of OTLP/HTTP logs as JSON that takes nothing but what opentelemetry-proto describes."""

import gzip
import json
import math
import re
import time

import http_server
import pytest

# The messages of opentelemetry-proto (logs/v1, common/v1, resource/v1) in the JSON of protobuf:
# field: what checks it, or in a list what checks each.


class Wrong(Exception):
    """What is sent is no such message."""


def check(condition, what):
    if not condition:
        raise Wrong(what)


def message(fields, needed=()):
    def read(value, at):
        check(isinstance(value, dict), f"{at}: an object")
        for name, item in value.items():
            check(name in fields, f"{at}: there is no field {name}")
            reader = fields[name]
            if isinstance(reader, list):
                check(isinstance(item, list), f"{at}.{name}: a list")
                for i, one in enumerate(item):
                    reader[0](one, f"{at}.{name}[{i}]")
            else:
                reader(item, f"{at}.{name}")
        for name in needed:
            check(name in value, f"{at}: {name} is missing")

    return read


def string(value, at):
    check(isinstance(value, str), f"{at}: a string")
    value.encode()  # no halves of surrogates


def boolean(value, at):
    check(isinstance(value, bool), f"{at}: true or false")


def double(value, at):
    check(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value), f"{at}: a number")


def small(value, at):
    check(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32, f"{at}: a number")


def int64(value, at):
    check(isinstance(value, str) and re.fullmatch(r"-?\d+", value) and -(2**63) <= int(value) < 2**63, f"{at}: an int64, as a string")


def fixed64(value, at):
    check(isinstance(value, str) and re.fullmatch(r"\d+", value) and int(value) < 2**64, f"{at}: a fixed64, as a string")


def severity(value, at):
    check(isinstance(value, int) and 1 <= value <= 24, f"{at}: a SeverityNumber, as a number")


def any_value(value, at):
    check(isinstance(value, dict) and len(value) <= 1, f"{at}: one value of an AnyValue")
    message({"stringValue": string, "boolValue": boolean, "intValue": int64, "doubleValue": double,
             "arrayValue": message({"values": [any_value]}), "kvlistValue": message({"values": [key_value]})})(value, at)


def key_value(value, at):
    message({"key": string, "value": any_value}, ("key", "value"))(value, at)


def unique(reader):
    """Of attributes each has another name, and none has none."""

    def read(value, at):
        reader(value, at)
        names = [one["key"] for one in value.get("attributes", [])]
        check(all(names) and len(names) == len(set(names)), f"{at}: names of attributes, each once: {names}")

    return read


LOG_RECORD = unique(message(
    {"timeUnixNano": fixed64, "observedTimeUnixNano": fixed64, "severityNumber": severity, "severityText": string,
     "body": any_value, "attributes": [key_value], "droppedAttributesCount": small, "flags": small, "traceId": string,
     "spanId": string, "eventName": string},
    ("timeUnixNano", "observedTimeUnixNano", "body")))
SCOPE = unique(message({"name": string, "version": string, "attributes": [key_value], "droppedAttributesCount": small}))
SCOPE_LOGS = message({"scope": SCOPE, "logRecords": [LOG_RECORD], "schemaUrl": string})
RESOURCE = unique(message({"attributes": [key_value], "droppedAttributesCount": small}))
RESOURCE_LOGS = message({"resource": RESOURCE, "scopeLogs": [SCOPE_LOGS], "schemaUrl": string})
REQUEST = message({"resourceLogs": [RESOURCE_LOGS]}, ("resourceLogs",))


def plain(value):
    """What an AnyValue stands for."""
    for kind, inside in value.items():
        if kind == "arrayValue":
            return [plain(one) for one in inside["values"]]
        if kind == "kvlistValue":
            return {one["key"]: plain(one["value"]) for one in inside["values"]}
        return int(inside) if kind == "intValue" else inside
    return None


def attributes(holder):
    return {one["key"]: plain(one["value"]) for one in holder.get("attributes", [])}


class Receiver(http_server.Server):
    """Logs by their uid. What a test sets: `status`, answered to everything, with `headers`; `hang`: how long
    each answer takes; `bad(log)`: a request in which one of these is gets 400; `refuse(log)`: a request is
    taken but for these, of which the number is said; `message`: what is said with it; `answer`: said instead;
    `cut`: so many requests are taken and get no answer."""

    def __init__(self, **options):
        self.logs = {}  # uid: (resource's attributes, LogRecord, its attributes)
        self.arrivals = {}
        self.wrong = []  # what was no OTLP
        self.times = []  # of each request
        self.largest = 0
        self.status, self.headers, self.hang, self.message, self.answer, self.cut = None, {}, 0, "", None, 0
        self.bad = self.refuse = lambda log: False
        super().__init__(Handler, **options)

    @property
    def documents(self):
        with self.lock:
            return dict(self.logs)

    def take(self, request):
        """(status, answer) of an ExportLogsServiceRequest."""
        found = [
            (attributes(of["resource"]), log, attributes(log))
            for of in request["resourceLogs"] for scope in of["scopeLogs"] for log in scope["logRecords"]
        ]
        self.largest = max(self.largest, len(found))
        if any(self.bad(values) for *_, values in found):
            return 400, {"code": 3, "message": "bad data", "details": []}
        refused = 0
        for one in found:
            uid = one[2]["log.record.uid"]
            self.arrivals[uid] = self.arrivals.get(uid, 0) + 1
            if self.refuse(one[2]):
                refused += 1
            else:
                self.logs[uid] = one
        if self.answer is not None:
            return 200, self.answer
        if refused or self.message:
            return 200, {"partialSuccess": {"rejectedLogRecords": str(refused), "errorMessage": self.message}}
        return 200, {}


class Handler(http_server.Handler):
    def read(self, body):
        check(self.path == "/v1/logs", f"POST {self.path}")
        check(self.headers.get("Content-Type") == "application/json", "its Content-Type")
        if self.headers.get("Content-Encoding"):
            check(self.headers["Content-Encoding"] == "gzip", "its Content-Encoding")
            body = gzip.decompress(body)
        request = json.loads(body.decode())
        REQUEST(request, "request")
        return request

    def do_POST(self):
        server = self.server
        body = self.body()
        with server.lock:
            server.times.append(time.monotonic())
        if server.hang:
            time.sleep(server.hang)
        if server.status:
            self.answer(server.status, {"code": 14, "message": "as the test wants"}, headers=server.headers)
            return
        try:
            request = self.read(body)
        except (Wrong, ValueError, OSError, UnicodeError) as error:
            with server.lock:
                server.wrong.append(str(error))
            self.answer(400, {"code": 3, "message": str(error)})
            return
        with server.lock:
            status, answer = server.take(request)
            cut = server.cut > 0
            server.cut -= cut
        if cut:
            self.close_connection = True
        else:
            self.answer(status, answer)


@pytest.fixture
def receiver():
    """receiver() starts one; they end with the test, which fails if anything was sent that is no OTLP."""
    receivers = []

    def start(**options):
        receivers.append(Receiver(**options))
        return receivers[-1]

    yield start
    for one in receivers:
        one.close()
    assert not [wrong for one in receivers for wrong in one.wrong]
