#!/usr/bin/env python3
"""Looks at the status page as a person would: a gate with mail, and Chromium at two widths in both colour schemes.

    tests/page/look.py BINARY DIRECTORY

Starts the gate BINARY between a DNS server and a mail server of its own on loopback, sends it messages, puts a week of
numbers into its store, and loads every page. It fails where Chromium says anything to the console, where a number on the
page is not that of /metrics, where a hostile name becomes more than text, or where a page is wider than a window of any of
`WIDTHS`, so that one would have to scroll sideways. The screenshots go to DIRECTORY, for eyes. Needs `chromium` and nothing
else beyond Python's own library.
"""

import contextlib
import html.parser
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import socketserver
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TXT = {
    "good.example": "v=spf1 ip4:192.0.2.0/24 -all",
    "_dmarc.good.example": "v=DMARC1; p=reject",
    "_dmarc.bank.example": "v=DMARC1; p=reject",
    "_dmarc.shop.example": "v=DMARC1; p=quarantine",
}
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "\u202eelpmaxe.a", "' onmouseover='alert(1)"]
PAGES = ["/", "/refusals", "/failing", "/forwarders", "/shadow", "/reports", "/inbound", "/api"]
SIZES = {"desktop": (1360, 1500), "phone": (390, 2600)}
SCHEMES = {"light": 1, "dark": 0}
# Those of the pictures, and the narrowest that WCAG 2.1 asks for (1.4.10, reflow).
WIDTHS = [320, *(width for width, _ in SIZES.values())]
JOB_COLUMNS = """id, report_id, policy_domain, configuration, period_begin, period_end, destination, due, deadline, state,
    attempts, unanswered, holder, lease, claimed, changed, recipient, note, messages, message"""
DAY = 86_400

CONFIG = """
hostname = "mx.example.net"
[[listener]]
address = "127.0.0.1:0"
proxy_protocol_from = ["127.0.0.0/8"]
[upstream]
servers = ["{upstream}"]
identity = "received"
[dns]
servers = ["{dns}"]
[policy]
mode = "enforce"
[policy.shadow]
mode = "enforce"
reject = "always"
[smtp]
recipient_domains = ["*"]
[spool]
directory = "{base}/spool"
[store]
url = "sqlite://{base}/dmarcgate.db"
[process]
user = "root"
[admin]
address = "127.0.0.1:0"
"""


class Dns(socketserver.BaseRequestHandler):
    """Answers TXT questions from the table above; all other names do not exist."""

    def handle(self):
        question, sock = self.request
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1:at + 1 + question[at]].decode())
            at += 1 + question[at]
        kind, text = struct.unpack(">H", question[at + 1:at + 3])[0], TXT.get(".".join(labels).lower())
        is_known = text is not None and kind == 16
        head = question[:2] + struct.pack(">HHHHH", 0x8180 if text else 0x8183, 1, int(is_known), 0, 0)
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 300, len(text) + 1) + bytes([len(text)]) + text.encode() \
            if is_known else b""
        sock.sendto(head + question[12:at + 5] + answer, self.client_address)


class Mta(socketserver.StreamRequestHandler):
    """Takes all mail but that to refused@."""

    def handle(self):
        self.wfile.write(b"220 mta ESMTP\r\n")
        is_refused = False
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"EHLO":
                self.wfile.write(b"250-mta\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() not in (b".\r\n", b""):
                    pass
                self.wfile.write(b"554 5.7.1 <b>we don't like it</b>\r\n" if is_refused else b"250 2.0.0 taken\r\n")
                is_refused = False
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                is_refused = is_refused or b"refused@" in line
                self.wfile.write(b"250 2.0.0 ok\r\n")


class Copies(http.server.BaseHTTPRequestHandler):
    """Serves `pages`: as they are, without the headers that keep scripts and frames from them."""

    pages = {}

    def do_GET(self):
        page = self.pages.get(self.path)
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write((page or "").encode())

    def log_message(self, *_):
        pass


class Tags(html.parser.HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        handlers = [name for name, _ in attributes if name.startswith("on") or name in ("style", "src")]
        assert not handlers, f"{tag} has {handlers}"
        self.links.update(value for name, value in attributes if name == "href")


def main():
    binary, out = sys.argv[1], pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory(prefix="dmarcgate-page-"))
        dns, mta = (stack.enter_context(serving(*kind)) for kind in
                    [(socketserver.ThreadingUDPServer, Dns), (socketserver.ThreadingTCPServer, Mta)])
        smtp, admin = stack.enter_context(gate(binary, base, dns, mta))
        send_mail(smtp)
        wait_for(lambda: metric(admin, "dmarcgate_store_rows_written_total") == 42, "rows")
        fill_store(base)
        look(admin, out)
    print(f"{len(PAGES)} pages at {len(WIDTHS)} widths, {len(SIZES) * len(SCHEMES)} views of the overview: well")


def look(admin, out):
    pages = {path: fetch(admin, path) for path in PAGES}
    for path, page in pages.items():
        tags = Tags(page)
        assert not tags.tags & {"script", "img", "iframe", "object", "form", "b/"} , (path, tags.tags)
        assert all(link.startswith(("/", "data:image/svg+xml,")) for link in tags.links), (path, tags.links)
        assert "\u202e" not in page, path
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages["/failing"], "a hostile name is shown as what it is"
    for outcome in ("accepted", "accepted_tagged", "refused", "upstream_refused", "unacceptable"):
        shown = re.search(rf'id="outcome-{outcome}"><data value="(\d+)"', pages["/"])
        counted = metric(admin, f'dmarcgate_messages_total{{outcome="{outcome}"}}')
        assert shown and int(shown[1]) == counted > 0, (outcome, shown, counted)
    story = next(link for link in sorted(Tags(pages["/refusals"]).links) if link.startswith("/explain/"))
    for path in PAGES + [story]:
        chromium(admin, path, "desktop", "light", None)
    hold_to_widths(pages | {story: fetch(admin, story)})
    for size in SIZES:
        for scheme in SCHEMES:
            chromium(admin, "/", size, scheme, out / f"status-{size}-{scheme}.png")
    chromium(admin, story, "phone", "dark", out / "story-phone-dark.png")
    chromium(admin, "/forwarders", "phone", "light", out / "forwarders-phone-light.png")


def chromium(address, path, size, scheme, picture):
    """Loads a page and holds the console to silence; takes a picture, or gives the page as it is then."""
    width, height = SIZES[size]
    with tempfile.TemporaryDirectory(prefix="dmarcgate-chromium-") as profile:
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            f"--user-data-dir={profile}", f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--enable-logging=stderr",
            f"--screenshot={picture}" if picture else "--dump-dom", f"http://{address}{path}",
        ]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert run.returncode == 0 and not said, (path, run.returncode, said, run.stderr[-2000:])
    if picture:
        assert pathlib.Path(picture).stat().st_size > 10_000, picture
    else:
        assert "dmarcgate" in run.stdout, run.stdout
    return run.stdout


def hold_to_widths(pages):
    """Holds each page to each of WIDTHS, in a frame of it: Chromium's own window is never narrower than 500."""
    frames = "".join(f'<iframe src="{path}" width="{width}"></iframe>' for path in pages for width in WIDTHS)
    measure = """onload = () => document.body.textContent = "dmarcgate" + JSON.stringify(
        [...document.querySelectorAll("iframe")].map(frame => [
            frame.getAttribute("src"), frame.contentWindow.innerWidth, frame.contentDocument.documentElement.scrollWidth]))"""
    Copies.pages = pages | {"/frames": f"<!doctype html><body>{frames}<script>{measure}</script>"}
    with serving(http.server.ThreadingHTTPServer, Copies) as address:
        text = chromium(address, "/frames", "desktop", "light", None)
    found = json.loads(re.search(r"<body>dmarcgate(.*)</body>", text)[1])
    assert [(path, width) for path, width, _ in found] == [(path, width) for path in pages for width in WIDTHS], found
    wide = [f"{path} is {needed} wide at {width}" for path, width, needed in found if needed > width]
    assert not wide, wide


def send_mail(smtp):
    """Mail of every fate: 30 that pass, some that fail, some that nobody likes."""
    letters = [("192.0.2.10", "good.example", "you@rcpt.example", "")] * 30
    letters += [("198.51.100.66", "bank.example", "you@rcpt.example", "")] * 5
    letters += [("198.51.100.67", "shop.example", "you@rcpt.example", "")] * 4
    letters += [("192.0.2.10", "good.example", "refused@rcpt.example", "")] * 3
    letters += [("203.0.113.5", "odd.example", "you@rcpt.example", " no header field\r\n")] * 2
    for client, domain, recipient, odd in letters:
        with socket.create_connection(smtp, timeout=30) as sock, sock.makefile("rb") as replies:
            addresses = socket.inet_aton(client) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 40000, 25)
            sock.sendall(b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(addresses)) + addresses)
            for command in [None, "EHLO client.example", f"MAIL FROM:<a@{domain}>", f"RCPT TO:<{recipient}>", "DATA",
                            f"{odd}From: <a@{domain}>\r\nSubject: x\r\n\r\nx\r\n.", "QUIT"]:
                if command:
                    sock.sendall(command.encode() + b"\r\n")
                while (line := replies.readline())[3:4] == b"-":
                    pass
                assert line, (command, domain)


def fill_store(base):
    """A week of what takes a week: failing domains with names that peers made up, a forwarder, the shadow policy's
    differences, reports both ways."""
    now = int(time.time())
    today = now // DAY
    with contextlib.closing(sqlite3.connect(f"{base}/dmarcgate.db", timeout=30)) as store, store:
        columns = [row[1] for row in store.execute("PRAGMA table_info(report_rows)")]
        sample = dict(zip(columns, store.execute("SELECT * FROM report_rows WHERE header_from = 'bank.example'").fetchone()))
        names = [f"customer{n}.example" for n in range(6)] + HOSTILE
        for place, name in enumerate(names):
            for day in range(5):
                row = sample | {
                    "row_key": f"page-{place}-{day}".encode(), "day": today - day, "n": 3 + (len(names) - place) * 2,
                    "header_from": name, "policy_domain": f"customer{place}.example", "source_ip": "203.0.113.7",
                    "dkim_results": json.dumps([{"domain": "lists.example", "selector": "s", "result": "pass"}]),
                    "disposition": "none", "reply": "accepted",
                }
                store.execute(f"INSERT INTO report_rows VALUES ({', '.join('?' * len(row))})", list(row.values()))
        for number, (name, n) in enumerate([("news.example", 40), (HOSTILE[0], 12)]):
            store.execute("INSERT INTO comparisons VALUES (?,?,?,?,?,?,?,?,?,?)", (
                f"page-{number}".encode(), today - 1, n, "fail_tagged", "tagged_quarantine", "refused", "accepted", name,
                "d=lists.example", ""))
        for number, state in enumerate(["sent", "sent", "failed", "due"]):
            store.execute(f"INSERT INTO report_jobs ({JOB_COLUMNS}) VALUES ({', '.join('?' * 20)})", (
                f"{number:064x}", "ff", "good.example", "c", now - 2 * DAY, now - DAY,
                f"mailto:dmarc{number}@good.example", now - 600, now, state, 1 + number, 0, "", 0, 0, now - 600,
                "", ["", "", "550 5.1.1 " + HOSTILE[1], ""][number], 12, b""))
        store.execute("INSERT INTO inbound_reports VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", (
            b"page", now, "reporter.example", "Big Mail " + HOSTILE[0], "1", "example.net", "reject", now - 2 * DAY,
            now - DAY, 3, 5400, 0))
        for place, (n, source, aligned) in enumerate([(5200, "192.0.2.25", "pass"), (150, "198.51.100.9", "fail"),
                                                      (50, "2001:db8:1234:5678::19", "fail")]):
            store.execute("INSERT INTO inbound_rows VALUES (?,?,?,?,?,?,?,?,?,?,?)", (
                b"page", place, n, source, "example.net", "none", aligned, aligned,
                "example.net" if aligned == "pass" else "bulk-mailer.example", "", ""))


@contextlib.contextmanager
def gate(binary, base, dns, mta):
    config, addresses, log = (pathlib.Path(base) / name for name in ("dmarcgate.toml", "addresses", "log"))
    config.write_text(CONFIG.format(base=base, dns=dns, upstream=mta))
    (pathlib.Path(base) / "spool").mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen([binary, "serve", "--config", str(config)], stdout=output, stderr=output,
                                   stdin=subprocess.DEVNULL, env=os.environ | {"DMARCGATE_ADDRESS_FILE": str(addresses)})
    try:
        wait_for(lambda: addresses.exists() or process.poll() is not None, "the gate")
        assert process.poll() is None, log.read_text()
        known = dict(line.split(" ", 1) for line in addresses.read_text().splitlines())
        host, port = known["listener"].rsplit(":", 1)
        yield (host, int(port)), known["admin"]
        assert "panicked" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def serving(kind, handler):
    kind.allow_reuse_address = kind.daemon_threads = True
    with kind(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "127.0.0.1:%d" % server.server_address[1]
        server.shutdown()


def fetch(admin, path):
    with urllib.request.urlopen(f"http://{admin}{path}", timeout=30) as reply:
        return reply.read().decode()


def metric(admin, series):
    lines = fetch(admin, "/metrics").splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == series)


def wait_for(condition, what, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never had {what}"
        time.sleep(0.05)


if __name__ == "__main__":
    if not shutil.which("chromium"):
        sys.exit("chromium is not installed")
    main()
