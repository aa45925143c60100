# SPDX-License-Identifier: Apache-2.0
"""Real servers, one node each, on loopback.

Both projects publish the archive that their own integration tests run on at Maven Central, as
`org.opensearch.distribution.integ-test-zip:opensearch:VERSION:zip` and
`org.elasticsearch.distribution.integ-test-zip:elasticsearch:VERSION:zip` (56 MB each): the server, its
scripts and the module transport-netty4, which speaks HTTP. What it has not: a JVM (17 will do for OpenSearch
2.x and Elasticsearch 7.17; OpenSearch 3 wants 21), ILM and ISM, users and passwords, and data streams of
Elasticsearch, which are modules of their own. Neither runs as root.

usage: cluster.py --fetch DIR      puts the archives there, unless they are there
"""

import base64
import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SERVERS = {  # what is tested, and what docs/elasticsearch.md may claim
    "opensearch": ("org.opensearch.distribution.integ-test-zip", "2.19.6", "OPENSEARCH"),
    "elasticsearch": ("org.elasticsearch.distribution.integ-test-zip", "7.17.29", "ES"),
}
WITH_STREAMS = ["opensearch"]
START_S = 180
USER = "nobody"


def archive(folder, product):
    return folder / f"{product}-{SERVERS[product][1]}.zip"


def fetch(folder):
    """With the machine's own Maven, which knows where its packages come from."""
    folder.mkdir(parents=True, exist_ok=True)
    for product, (group, version, _) in SERVERS.items():
        if not archive(folder, product).exists():
            draft = Path(tempfile.mkdtemp(dir=folder))
            what = f"-Dartifact={group}:{product}:{version}:zip"
            subprocess.run(["mvn", "-q", "-B", "dependency:copy", what, f"-DoutputDirectory={draft}"], check=True)
            archive(draft, product).rename(archive(folder, product))
            draft.rmdir()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cluster:
    """A server with empty data. start() and kill() as often as a test likes; close() takes all away.
    What happens between send(signal.SIGSTOP) and send(signal.SIGCONT) has to wait: it hangs."""

    def __init__(self, product, archives):
        self.product, self.version, self.prefix = product, *SERVERS[product][1:]
        self.folder = Path(tempfile.mkdtemp(prefix=f"huatuo-{product}-"))
        with zipfile.ZipFile(archive(archives, product)) as content:
            content.extractall(self.folder)
        self.home = self.folder / f"{product}-{self.version}"
        for script in (self.home / "bin").iterdir():
            script.chmod(0o755)  # a zip of Python's has no modes
        owner = pwd.getpwnam(USER)
        subprocess.run(["chown", "-R", f"{owner.pw_uid}:{owner.pw_gid}", self.folder], check=True)
        self.folder.chmod(0o755)
        self.ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self.port, self.inner_port, self.process = free_port(), free_port(), None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def start(self, **more):
        """more: indexing_pressure__memory__limit="1kb" is that setting with dots."""
        settings = {
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": self.port,
            "transport.port": self.inner_port,
            # Nobody's disk is so full here that it matters, or so empty that the server would think so.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
        }
        if self.product == "elasticsearch":
            settings["xpack.security.enabled"] = "false"
        settings.update((key.replace("__", "."), value) for key, value in more.items())
        words = [word for key, value in settings.items() for word in ("-E", f"{key}={value}")]
        java = Path(shutil.which("java")).resolve().parents[1]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            f"{self.prefix}_JAVA_HOME": str(java),
            f"{self.prefix}_JAVA_OPTS": "-Xms512m -Xmx512m",
        }
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", *self.ids, self.home / "bin" / self.product, *words],
                cwd=self.home, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                self.ask("GET", "/_cluster/health?wait_for_status=yellow&timeout=10s")
                return self
            assert self.process.poll() is None, f"{self.product} ended:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"{self.product} does not answer:\n{self.log[-4000:]}"
            time.sleep(0.5)

    def send(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        """kill -9, as a machine that goes down."""
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        self.process.wait()

    def close(self):
        if self.process:
            self.kill()
        shutil.rmtree(self.folder)

    def ask(self, method, path, content=None):
        request = urllib.request.Request(self.url + path, method=method)
        if content is not None:
            request.data = json.dumps(content).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def search(self, index="huatuo*", **body):
        return self.first_page(index, "", {"track_total_hits": True, **body})["hits"]

    def first_page(self, index, options, body):
        """Of indices that are not there, nothing is found. One that was made a moment ago is waited for: its
        shard is not there at once, and until then the server answers with 503, or leaves it out."""
        self.ask("POST", f"/{index}/_refresh?ignore_unavailable=true")
        path = f"/{index}/_search?ignore_unavailable=true&allow_partial_search_results=false{options}"
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.ask("POST", path, {"size": 10000, **body})
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def document_ids(self, index="huatuo*"):
        """Of all documents, however many. One that is there twice, in two indices, is here twice."""
        found = []
        page = self.first_page(index, "&scroll=1m", {"sort": ["_doc"], "_source": False})
        while page["hits"]["hits"]:
            found += [hit["_id"] for hit in page["hits"]["hits"]]
            page = self.ask("POST", "/_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})
        return found


class Guard(ThreadingHTTPServer):
    """Asks for a user and a password before it lets anybody through to a server, as is usual where that does
    not ask itself."""

    daemon_threads = True

    def __init__(self, cluster, user, password):
        self.port = cluster.port
        self.expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.refused = 0
        super().__init__(("127.0.0.1", 0), Passage)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class Passage(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") == self.server.expected:
            inside = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
            names = ("Content-Type", "Content-Encoding")
            inside.request(self.command, self.path, body, {n: self.headers[n] for n in names if n in self.headers})
            answer = inside.getresponse()
            status, kind, content = answer.status, answer.getheader("Content-Type"), answer.read()
            inside.close()
        else:
            self.server.refused += 1
            status, kind, content = 401, "text/html", b"<html>401 Authorization Required</html>"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_HEAD = do


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "--fetch":
        sys.exit(__doc__)
    fetch(Path(sys.argv[2]))
