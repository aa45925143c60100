# SPDX-License-Identifier: Apache-2.0
"""Ten minutes with all kinds watched on a machine with which nothing is wrong: nothing is recorded. It has to be
one with which nothing is wrong: what else it does meanwhile may be true, as are connections that tests have left
a minute ago."""

import contextlib
import http.client
import socket
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import check_accounting

MINUTE = 60
LASTS_S = 10 * MINUTE
# Some hundred requests and ten processes in a second, and a compiler that never stops: two CPUs have enough to do.
REQUEST_EVERY_S, CHURN_EVERY_S = 0.005, 0.1
SOURCE = "#include <stdio.h>\n" + "".join(
    f"static int f{i}(int n) {{ int s = 0; for (int k = 0; k < n; k++) s += k * {i}; return s + printf(\"%d\", s); }}\n" for i in range(400)
)
# Namespaces of its own, a loopback device that comes up, a mount, some memory, and it is gone.
CONTAINER = ["unshare", "--fork", "--pid", "--mount-proc", "--net", "--ipc", "--uts", "sh", "-c", "ip link set lo up; seq 1000 | sort -n >/dev/null"]


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "20000")
        self.end_headers()
        self.wfile.write(bytes(20000))

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def ask(port, over):
    """Keeps a connection for ten requests, as browsers do, and takes another."""
    while not over.is_set():
        one = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(10):
            one.request("GET", "/")
            assert len(one.getresponse().read()) == 20000
            over.wait(REQUEST_EVERY_S)
        one.close()


def say(over):
    """Datagrams, as of a name server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        while not over.wait(REQUEST_EVERY_S):
            client.sendto(b"question", server.getsockname())
            _, back = server.recvfrom(100)
            server.sendto(b"answer", back)
            client.recvfrom(100)


def churn(over):
    while not over.wait(CHURN_EVERY_S):
        subprocess.run(CONTAINER, check=True)


def build(over):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "source.c").write_text(SOURCE)
        while not over.is_set():
            subprocess.run(["cc", "-O2", "-c", "source.c"], cwd=folder, check=True)


@contextlib.contextmanager
def ordinary_load():
    server, over, failed = Server(("127.0.0.1", 0), Pages), threading.Event(), []

    def until_over(work, *arguments):
        try:
            work(*arguments, over)
        except BaseException as error:  # it is looked at in the end
            failed.append(error)

    threads = [threading.Thread(target=server.serve_forever, daemon=True)]
    threads += [threading.Thread(target=until_over, args=(ask, server.server_address[1])) for _ in range(2)]
    threads += [threading.Thread(target=until_over, args=(work,)) for work in (say, churn, build)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads[1:]:
            thread.join()
        server.shutdown()
        server.server_close()
    assert not failed, failed


@pytest.mark.limit_s(LASTS_S + 5 * MINUTE)
@pytest.mark.parametrize("load", [contextlib.nullcontext, ordinary_load], ids=["idle", "ordinary load"])
def test_ten_minutes(agent, load):
    one = agent()
    watched = [kind for kind, event in one.status()["events"].items() if event["state"] == "watching"]
    assert len(watched) >= 8, watched  # lacp wants bonding
    with load():
        time.sleep(LASTS_S)
    end = one.stop()
    check_accounting(end)
    told = [record for record in one.records() if not record["tracer_data"].get("start")]
    if told:
        pytest.fail("\n".join(f"{record['time']} {record['tracer_name']}: {record['summary']}" for record in told))
