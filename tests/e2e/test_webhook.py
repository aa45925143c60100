# SPDX-License-Identifier: Apache-2.0
"""Messages to people: what is told and when, that nothing is silently left out, and that the address stays a secret."""

import json
import re
import time

import http_server
import pytest
import upload
from elasticsearch import certificate  # noqa: F401 (a fixture)
from harness import patience, wait_until
from otlp import receiver  # noqa: F401 (a fixture)
from upload import filled, huatuo, ids, wait_uploaded  # noqa: F401 (a fixture)

pytestmark = pytest.mark.host_only("nothing of it depends on the kernel")

SECRET = "/services/T0/B0/geheim"


# ---- a chat that takes nothing but messages


def check_generic(message):
    assert set(message) == {"text", "events", "others"}
    for event in message["events"]:
        assert set(event) == {"kind", "hostname", "region", "summary", "tracer_id", "first_time", "last_time", "count"}
        assert isinstance(event["count"], int) and event["count"] > 0
        assert all(isinstance(event[name], str) for name in set(event) - {"count"})
    assert all(isinstance(count, int) and count > 0 for count in message["others"].values())
    assert message["events"] or message["others"]
    assert len(message["text"].split("\n")) == len(message["events"]) + bool(message["others"])


def check_slack(message):
    """https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""
    assert message.keys() == {"text", "mrkdwn"} and message["text"] and message["mrkdwn"] is False
    assert not re.search("[<>]|&(?!amp;|lt;|gt;)", message["text"])


def check_teams(message):
    """https://learn.microsoft.com/connectors/teams/#microsoft-teams-webhook"""
    assert message.keys() == {"type", "attachments"} and message["type"] == "message"
    (attachment,) = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert card["type"] == "AdaptiveCard" and card["body"]
    for block in card["body"]:
        assert block["type"] == "RichTextBlock"
        assert all(run.keys() == {"type", "text"} and run["type"] == "TextRun" for run in block["inlines"])


CHECKS = {"generic": check_generic, "slack": check_slack, "teams": check_teams}


class Chat(http_server.Server):
    """Keeps messages. What a test sets: `path`: the only one that there is; `template`: what a message has to be;
    `status`: answered to everything, with `text` and `headers`; `hang`: how long each answer takes; `cut`: so many
    messages are taken and get half an answer."""

    def __init__(self, path="/", template="generic", **options):
        self.path, self.template = path, template
        self.status, self.text, self.headers, self.hang, self.cut = None, "no_service", {}, 0, 0
        self.messages, self.taken, self.tries, self.wrong = [], [], [], []
        super().__init__(Handler, **options)

    @property
    def told(self):
        """summary: how many of it, of all messages."""
        found = {}
        for message in self.messages:
            for event in message["events"]:
                found[event["summary"]] = found.get(event["summary"], 0) + event["count"]
        return found

    @property
    def total(self):
        return sum(self.told.values()) + sum(sum(message["others"].values()) for message in self.messages)


class Handler(http_server.Handler):
    def read(self):
        assert self.headers["Content-Type"] == "application/json", "its Content-Type"
        assert "Content-Encoding" not in self.headers, "chats do not unpack"
        message = json.loads(self.body().decode())
        CHECKS[self.server.template](message)
        return message

    def do_POST(self):
        chat = self.server
        chat.tries.append(time.monotonic())
        try:
            message = self.read()
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            chat.wrong.append(repr(error))
            self.answer(400, "invalid_payload")
            return
        time.sleep(chat.hang)
        if chat.status or self.path != chat.path:
            self.answer(chat.status or 404, chat.text, headers=chat.headers)
            return
        cut = chat.cut > 0
        chat.cut -= cut
        chat.taken.append(time.monotonic())
        chat.messages.append(message)
        self.answer(200, "ok", cut=cut)


@pytest.fixture
def chat():
    """chat() starts one; they end with the test, which fails if anything was sent that is no message."""
    chats = []

    def start(**options):
        chats.append(Chat(**options))
        return chats[-1]

    yield start
    for one in chats:
        one.close()
    assert not [wrong for one in chats for wrong in one.wrong]


# ---- an agent


QUIET = "softlockup"  # what other tests do at the same time is no news of this agent


def begin(agent, url, events=QUIET, **options):
    return upload.begin(agent, url, section="webhook", events=events, **options)


def target(one):
    return upload.target(one, "webhook")


def word(i):
    return "".join(chr(ord("a") + int(digit)) for digit in f"{i:04}")


def summary(i):
    return f"{word(i)}[{i}] was killed"


@pytest.fixture
def killed(filled):  # noqa: F811
    """killed(n, things): a store with n records of so many things that are not the same."""

    def fill(n, things=None):
        return filled(n, tracer_name=lambda i: "oom", summary=lambda i: summary(i % (things or n))).store

    return fill


def wait_taken(one, chat, n=1, timeout=20):
    wait_until(lambda: len(chat.messages) >= n, timeout, lambda: (chat.messages, chat.wrong, target(one)))


def wait_dealt_with(one):
    """The chat has the message a moment before the agent knows it, and the store a moment later."""
    wait_until(lambda: target(one)["uploaded"] == len(ids(one)), 15, lambda: target(one))


# ---- tests


def test_message(killed, agent, chat):
    """Ten are told one by one and the others as a number; then it is quiet."""
    one_chat = chat()
    one = begin(agent, one_chat.url, store=killed(30), agent__hostname="node-7")
    wait_taken(one, one_chat)
    wait_dealt_with(one)
    (message,) = one_chat.messages
    assert [event["summary"] for event in message["events"]] == [summary(i) for i in range(10)]
    assert message["others"] == {"oom": 20}
    record = [r for r in one.records("oom") if r["summary"] == summary(0)][0]
    event = message["events"][0]
    assert (event["tracer_id"], event["hostname"]) == (record["tracer_id"], record["hostname"])
    assert event["count"] == 1 and event["kind"] == "oom"
    assert message["text"].startswith(f"{event['hostname']}: {record['time'][:19]} oom: {summary(0)}\n")
    state = one.stop()["targets"]["webhook"]
    assert (state["state"], state["problem"], state["retried"], state["rejected"]) == ("ok", "", 0, 0)
    assert len(one_chat.messages) == 1  # of the agent itself nobody is told
    again = begin(agent, one_chat.url, store=one.store)
    wait_dealt_with(again)
    again.stop()
    assert len(one_chat.messages) == 1


def test_same(killed, agent, chat):
    """As often as it happened, on one line; of many batches there is one message."""
    one_chat = chat()
    one = begin(agent, one_chat.url, store=killed(3000, things=3))
    wait_taken(one, one_chat)
    wait_dealt_with(one)
    assert [event["count"] for event in one_chat.messages[0]["events"]] == [1000] * 3
    assert len(one_chat.messages) == 1 and one_chat.messages[0]["text"].count("(1000 times until 20") == 3


@pytest.fixture
def links(netns, through, chat):
    """A chat in a namespace, where the next agents run and see interfaces that nobody else touches."""
    ns = netns("hooks")
    through("nsenter", f"--net={ns.path}")
    with ns:
        ns.chat = chat()
    for name in ("one", "two"):
        ns.ip("tuntap", "add", "dev", name, "mode", "tap")
    return ns


def flap(ns, name, times=1):
    for _ in range(times):
        ns.ip("link", "set", name, "up")
        ns.ip("link", "set", name, "down")


def kept(one, start="one:"):
    """How many events, those of closing records too, are in the store."""
    rows = [r["tracer_data"].get("repeat", {"count": 1})["count"] for r in one.records("netdev") if start in r["summary"]]
    return sum(rows)


def test_repeats(links, agent):
    """Told at once; what repeats it later, with how often, and not before; what is new not before the gap is over."""
    one = begin(agent, links.chat.url, events="netdev", repeat_after="8s", min_gap="3s")
    flap(links, "one")
    wait_taken(one, links.chat)
    flap(links, "one", 3)
    wait_until(lambda: kept(one) == 8, 15, lambda: kept(one))
    flap(links, "two")
    wait_until(lambda: links.chat.total == 10, 40, lambda: (links.chat.messages, target(one)))
    wait_dealt_with(one)
    gaps = [after - before for before, after in zip(links.chat.taken, links.chat.taken[1:])]
    assert min(gaps) >= 3, gaps
    assert "two:" in links.chat.messages[1]["text"] and len(links.chat.messages) <= 3
    flap(links, "one")
    wait_until(lambda: kept(one) == 10, 15, lambda: kept(one))
    wait_until(lambda: links.chat.total == 12, 40, lambda: (links.chat.messages, target(one)))
    assert links.chat.taken[-1] - links.chat.taken[-2] >= 3
    one.stop()
    assert links.chat.total == 12


def test_held_is_not_lost(links, agent):
    """kill -9 while repeats are only counted: they are told by the next agent."""
    one = begin(agent, links.chat.url, events="netdev", min_gap="10ms")
    flap(links, "one")
    wait_until(lambda: links.chat.total == 2, 20, lambda: (links.chat.messages, target(one)))
    wait_dealt_with(one)
    flap(links, "one", 3)
    wait_until(lambda: kept(one) == 8, 15, lambda: kept(one))
    wait_until(lambda: target(one)["oldest_not_uploaded_s"] >= 1, 15, lambda: target(one))
    assert links.chat.total == 2 and target(one)["state"] == "ok"
    one.kill()
    again = begin(agent, links.chat.url, events="netdev", store=one.store)
    wait_until(lambda: links.chat.total == 8, 20, lambda: (links.chat.messages, target(again)))
    wait_dealt_with(again)
    again.stop()
    assert links.chat.total == 8


def test_backlog(killed, agent, chat):
    """After an outage: one message that says how many, of which kind, when."""
    one_chat = chat()
    store = killed(2500, things=700)
    time.sleep(1.1)
    one = begin(agent, one_chat.url, store=store, max_age="1s")
    wait_taken(one, one_chat)
    wait_dealt_with(one)
    (message,) = one_chat.messages
    assert message["others"] == {"oom": 2500} and message["events"] == []
    assert re.search(r": not told one by one: 2500 oom, from 20\S+ \S+ to 20\S+ \S+; on that host: huatuo list --since ", message["text"])
    since = re.search('--since "(.*)"$', message["text"])[1]
    assert len(one.huatuo("list", "--since", since, "--event", "oom").stdout.decode().splitlines()) >= 2500


@pytest.mark.parametrize("status", [503, 500, 400, 404, 410, 413])
def test_not_taken(killed, agent, chat, receiver, status):  # noqa: F811
    """Told once it is taken, once; another target does not wait for it."""
    otlp, one_chat = receiver(), chat()
    one_chat.status = status
    one = begin(agent, one_chat.url, store=killed(30), otlp__url=otlp.url)
    wait_until(lambda: f"status {status}: no_service" in target(one)["problem"], 15, lambda: target(one))
    assert f"uploading to webhook at {one_chat.url} failed" in one.stderr
    wait_uploaded(one, otlp)
    tries = len(one_chat.tries)
    wait_until(lambda: len(one_chat.tries) >= tries + 2, 30, "more tries")
    assert len(one_chat.tries) < tries + 12
    one_chat.status = None
    wait_taken(one, one_chat, timeout=30)
    wait_until(lambda: target(one)["state"] == "ok", 10, lambda: target(one))
    wait_dealt_with(one)
    assert target(one)["rejected"] == 0 and target(one)["retried"] >= 30
    assert len(one_chat.messages) == 1 and one_chat.total == 30


def test_retry_after(killed, agent, chat):
    one_chat = chat()
    one_chat.status, one_chat.headers = 429, {"Retry-After": "4"}
    one = begin(agent, one_chat.url, store=killed(3))
    wait_until(lambda: one_chat.tries, 15, lambda: target(one))
    one_chat.status = None
    wait_taken(one, one_chat)
    assert one_chat.taken[0] - one_chat.tries[0] >= 4


def test_down(killed, agent, chat):
    """From the start on: recording does not care, and it is told when somebody is there."""
    gone = chat()
    port = gone.port
    gone.close()
    one = begin(agent, gone.url, store=killed(3))
    wait_until(lambda: "does the server run" in target(one)["problem"], 15, lambda: target(one))
    back = chat(port=port)
    wait_taken(one, back, timeout=30)
    wait_dealt_with(one)
    assert back.total == 3


def test_hangs(killed, agent, chat, receiver):  # noqa: F811
    """No answer: neither the other target nor the agent's end waits for it."""
    otlp, one_chat = receiver(), chat()
    one_chat.hang = 3600
    one = begin(agent, one_chat.url, store=killed(3), timeout="1s", otlp__url=otlp.url)
    wait_until(lambda: "timed out" in target(one)["problem"], 20, lambda: target(one))
    wait_uploaded(one, otlp)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < patience(8)
    assert upload.target(one, "otlp")["uploaded"] == len(ids(one))


def test_cut(killed, agent, chat):
    """It is not known whether it has arrived: it is sent again."""
    one_chat = chat()
    one_chat.cut = 2
    one = begin(agent, one_chat.url, store=killed(3))
    wait_taken(one, one_chat, 3)
    wait_dealt_with(one)
    assert one_chat.total == 9 and len(one_chat.messages) == 3


def test_page(killed, agent, chat):
    """Somebody who says 200 to everything, as the log-in page of a network does."""
    one_chat = chat()
    one_chat.status, one_chat.text = 200, "<html>please log in</html>"
    one = begin(agent, one_chat.url, store=killed(3))
    wait_until(lambda: "is not that of webhook" in target(one)["problem"], 15, lambda: target(one))
    assert target(one)["uploaded"] == 0 and not one_chat.messages
    one_chat.status = None
    wait_taken(one, one_chat, timeout=30)


@pytest.mark.parametrize("template", ["slack", "teams"])
def test_template(killed, agent, chat, template):
    one_chat = chat(template=template)
    one = begin(agent, one_chat.url, store=killed(13), template=template)
    wait_taken(one, one_chat)
    text = json.dumps(one_chat.messages[0])
    assert all(summary(i) in text for i in range(10)) and "and 3 oom, from" in text


def assert_hidden(one, *texts):
    shown = [one.stderr, json.dumps(one.status()), one.huatuo("status").stdout.decode(), *texts]
    for process in one.processes():
        shown.append(open(f"/proc/{process}/cmdline", "rb").read().decode())
    assert not [text for text in shown if "geheim" in text]


def test_secret(killed, agent, chat, tmp_path):
    """The path is in a file that root reads; nobody is told it, whatever goes wrong."""
    one_chat = chat(path=SECRET)
    path = tmp_path / "path"
    path.write_text("/services/T0/B0/geheimer\n")
    path.chmod(0o600)
    one_chat.text = "Cannot POST /services/T0/B0/geheimer"
    config = tmp_path / "huatuo.yaml"
    config.write_text(f"webhook:\n  url: {one_chat.url}\n  path_file: {path}\n  flush_interval: 20ms\n")
    one = agent("--events", QUIET, "--config", str(config), store=killed(3))
    wait_until(lambda: target(one)["problem"].startswith("the server answered with status 404; is it"), 15, lambda: target(one))
    code, output, _ = huatuo("config", "show", "--config", config)
    assert code == 0 and str(path) in output
    assert_hidden(one, output)
    path.write_text(SECRET + "\n")
    one.reload()
    wait_taken(one, one_chat, timeout=30)
    wait_until(lambda: target(one)["state"] == "ok", 10, lambda: target(one))
    assert target(one)["url"] == one_chat.url
    assert_hidden(one)


def test_secret_of_environment(killed, agent, chat):
    one_chat = chat(path=SECRET)
    one = begin(agent, one_chat.url, store=killed(3), env={"HUATUO_WEBHOOK_PATH": SECRET})
    wait_taken(one, one_chat)
    assert_hidden(one)


def test_secret_is_not_there(killed, agent, chat, tmp_path):
    """Without it nobody is asked."""
    one_chat = chat()
    one = begin(agent, one_chat.url, store=killed(3), path_file=tmp_path / "path")
    wait_until(lambda: "reading webhook.path_file" in target(one)["problem"], 15, lambda: target(one))
    assert not one_chat.tries


def test_secret_in_url(tmp_path):
    """As it is copied from a chat; and it is not repeated."""
    config = tmp_path / "huatuo.yaml"
    for url in (f"https://hooks.example.org{SECRET}", "https://example.org:443/workflows/1?sig=geheim", "https://a:geheim@b"):
        config.write_text(f"webhook:\n  url: {url}\n")
        code, output, errors = huatuo("config", "check", config)
        assert code == 1 and "path_file" in errors + output or "password_file" in errors + output
        assert "geheim" not in errors + output
        code, output, errors = huatuo("run", "--store", tmp_path / "store", "--set", f"webhook.url={url}")
        assert code == 2 and "_file" in errors and "geheim" not in errors + output


def test_tls(killed, agent, chat, certificate):  # noqa: F811
    """Who cannot show that he is who is meant gets nothing."""
    ours, context = certificate("ours")
    other, _ = certificate("other")
    one_chat = chat(context=context)
    one = begin(agent, one_chat.url, store=killed(3), ca_file=other["ca"])
    wait_until(lambda: "certificate must be valid" in target(one)["problem"], 15, lambda: target(one))
    one.stop()
    assert not one_chat.tries
    right = begin(agent, one_chat.url, store=one.store, ca_file=ours["ca"])
    wait_taken(right, one_chat)


def test_export(agent):
    """It is for messages: records cannot be sent to it."""
    code, _, errors = huatuo("export", "--to", "webhook")
    assert code == 2 and '--to "webhook": there is no such target; there are: ndjson, elasticsearch, otlp\n' in errors
