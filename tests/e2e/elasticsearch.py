# SPDX-License-Identifier: Apache-2.0
"""A server that does what the uploader needs of Elasticsearch, and misbehaves as a test wants."""

import base64
import gzip
import json
import re
import ssl
import subprocess
import time

import http_server
import pytest


class Server(http_server.Server):
    """Documents by index and id. What a test sets:

    `status`: answered to everything, with `headers`; `hang`: how long each answer takes; `cut`: so many
    answers are left off in the middle, after the documents were taken; `busy`: so many times each document
    is put off (429); `max_bytes`: larger requests are 413; `bad(document)`: why it is refused, or None;
    `user`: (name, password) that is asked for; `version`: what it says of itself; `forbidden`: a pattern of
    paths that may not be put to."""

    def __init__(self, **options):
        self.indices = {}  # index: {id: document}
        self.arrivals = {}  # id: how often it was sent
        self.requests = []  # (method, path)
        self.heads = []
        self.largest = 0  # documents in a request
        self.others = {}  # what was put elsewhere: path: (content)
        self.status, self.headers, self.hang, self.cut, self.busy = None, {}, 0, 0, 0
        self.max_bytes, self.bad, self.user = None, lambda document: None, None
        self.version, self.forbidden = {}, None
        super().__init__(Handler, **options)

    @property
    def documents(self):
        """All of them, by id."""
        with self.lock:
            return {key: doc for index in self.indices.values() for key, doc in index.items()}

    def create(self, index, key, document):
        """What is said of one document."""
        self.arrivals[key] = self.arrivals.get(key, 0) + 1
        if self.arrivals[key] <= self.busy:
            return 429, {"type": "es_rejected_execution_exception", "reason": "queue is full"}
        if reason := self.bad(document):
            return 400, {"type": "mapper_parsing_exception", "reason": reason}
        documents = self.indices.setdefault(index, {})
        if key in documents:
            return 409, {"type": "version_conflict_engine_exception", "reason": "document already exists"}
        documents[key] = document
        return 201, None

    def bulk(self, body):
        lines = body.decode().split("\n")
        assert lines.pop() == "" and len(lines) % 2 == 0, "a bulk request ends with a newline"
        items = []
        with self.lock:
            self.largest = max(self.largest, len(lines) // 2)
            for action, document in zip(lines[::2], lines[1::2]):
                create = json.loads(action)["create"]
                status, error = self.create(create["_index"], create["_id"], json.loads(document))
                items.append({"create": {"status": status, **({"error": error} if error else {})}})
        return {"errors": any("error" in item["create"] for item in items), "items": items}


class Handler(http_server.Handler):
    def allowed(self):
        if not self.server.user:
            return True
        expected = "Basic " + base64.b64encode(":".join(self.server.user).encode()).decode()
        return self.headers.get("Authorization") == expected

    def do(self):
        server = self.server
        body = self.body()
        with server.lock:
            server.requests.append((self.command, self.path))
            server.heads.append(dict(self.headers))
        if server.hang:
            time.sleep(server.hang)
        if server.status:
            self.answer(server.status, {"error": {"reason": "as the test wants"}}, headers=server.headers)
        elif not self.allowed():
            reason = "unable to authenticate user"
            self.answer(401, {"error": {"type": "security_exception", "reason": reason}, "status": 401})
        elif server.max_bytes and len(body) > server.max_bytes:
            self.answer(413, {})
        elif self.command == "POST" and re.match(r"/_bulk(\?|$)", self.path):
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            content = server.bulk(body)
            with server.lock:
                cut = server.cut > 0
                server.cut -= cut
            self.answer(200, content, cut=cut)
        else:
            self.other(self.path.partition("?")[0], body)

    def other(self, path, body):
        """A place in which what was put can be got again."""
        if self.command == "PUT" and self.server.forbidden and re.search(self.server.forbidden, path):
            self.answer(403, {"error": {"type": "security_exception", "reason": "not for you"}})
        elif self.command == "PUT":
            self.server.others[path] = json.loads(body)
            self.answer(200, {"acknowledged": True})
        elif path == "/":
            self.answer(200, {"version": {"number": "0.0.0", **self.server.version}})
        elif path in self.server.others and path.startswith("/_index_template/"):
            name = path.rpartition("/")[2]
            found = {"name": name, "index_template": self.server.others[path]}
            self.answer(200, {"index_templates": [found]})
        elif path in self.server.others:
            self.answer(200, {**self.server.others[path], "_seq_no": 7, "_primary_term": 1})
        else:
            self.answer(404, {"error": {"reason": "there is nothing"}, "status": 404})

    do_GET = do_POST = do_PUT = do_HEAD = do


@pytest.fixture
def server():
    """server() starts one; they end with the test."""
    servers = []

    def start(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield start
    for one in servers:
        one.close()


@pytest.fixture
def certificate(tmp_path):
    """certificate("name", days=1): files of a CA, and a certificate by it for 127.0.0.1 as an SSL context."""

    def make(name, days=1):
        def openssl(*words):
            subprocess.run(["openssl", *words], check=True, capture_output=True)

        paths = {kind: str(tmp_path / f"{name}-{kind}.pem") for kind in ("ca", "cakey", "cert", "key", "request")}
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN=CA {name}", "-days", "2",
                "-keyout", paths["cakey"], "-out", paths["ca"])
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                "-keyout", paths["key"], "-out", paths["request"])
        extensions = tmp_path / f"{name}-extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1")
        openssl("x509", "-req", "-in", paths["request"], "-CA", paths["ca"], "-CAkey", paths["cakey"],
                "-CAcreateserial", "-days", str(days), "-extfile", str(extensions), "-out", paths["cert"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(paths["cert"], paths["key"])
        return paths, context

    return make
