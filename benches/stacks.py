"""Mail servers that judge DMARC, each set up for itself in a directory: what `versus.py` and `versus_cases.py` compare.

A stack takes mail at a port of loopback, from a client that a PROXY header names, and relays what it accepts to a sink. All ask
one name server, which is named to those without a key for it by an /etc/resolv.conf of their own, in a mount namespace: so this
needs root, and touches nothing of the machine. The other servers are Debian's (`PACKAGES`, which `install` installs), but for
Haraka and mailauth, which are npm's (`NPM`) and go into the rig's folder `haraka`. Where they leave a choice, they are told to
check what the gate checks and to refuse what fails under p=reject.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import stage
from stage import free_port, tree

PACKAGES = ("postfix", "postfix-policyd-spf-python", "opendkim", "opendmarc", "publicsuffix", "rspamd", "nsd")
# Node, too, is npm's: mailauth needs a newer one than Debian has.
NPM = {"Haraka": "3.3.4", "mailauth": "7.1.0", f"node-linux-{'arm64' if os.uname().machine == 'aarch64' else 'x64'}": "24.21.0"}
HOSTNAME = "mx.rcpt.example"  # of every stack: it stands in the Authentication-Results that each writes
PLUGIN = pathlib.Path(__file__).parent / "haraka/mailauth.js"
SUFFIXES = pathlib.Path("/usr/share/publicsuffix/public_suffix_list.dat")

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {base}/queue
data_directory = {base}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = {base}
maillog_file = {base}/postfix.log
myhostname = {hostname}
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
relay_recipient_maps =
relay_domains = rcpt.example
relay_transport = smtp:[127.0.0.1]:{sink}
disable_dns_lookups = yes
message_size_limit = 33554432
default_process_limit = 300
smtpd_client_connection_count_limit = 0
smtpd_relay_restrictions = reject_unauth_destination
"""

MASTER_CF = """
127.0.0.1:{port} inet n - n - - smtpd
    -o {client}
smtp unix - - n - - smtp
relay unix - - n - - smtp
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
policyd-spf unix - n n - 0 spawn user=nobody argv=/usr/bin/policyd-spf {base}/policyd-spf.conf
"""

# SPF alone refuses nothing, or mail with an aligned signature would be refused before DMARC is asked (RFC 9989 §7.1).
POLICYD_SPF = """
debugLevel = 1
TestOnly = 1
HELO_reject = False
Mail_From_reject = False
PermError_reject = False
TempError_Defer = False
Header_Type = SPF
"""

OPENDKIM = """
Background no
Syslog no
Mode v
Socket local:{base}/socket
UMask 000
UserID opendkim
AuthservID {hostname}
RemoveARAll yes
RemoveARFrom {hostname}
Nameservers {address}
"""

OPENDMARC = """
Background false
Syslog false
Socket local:{base}/socket
UMask 000
UserID opendmarc
AuthservID {hostname}
TrustedAuthservIDs {hostname}
PublicSuffixList {suffixes}
HistoryFile {base}/opendmarc.dat
RejectFailures true
RejectMultiValueFrom true
RequiredHeaders true
"""

OPENDMARC_SPF = """
SPFSelfValidate true
SPFIgnoreResults true
"""

RSPAMD = """
options {{
  pidfile = "{base}/rspamd.pid"; filters = "dkim"; cache_file = "{base}/symbols.cache"; control_socket = "{base}/rspamd.sock";
  history_file = "{base}/history"; hs_cache_dir = "{base}/"; tempdir = "/tmp"; stats_file = "{base}/stats.ucl";
  dns {{ timeout = 1s; sockets = 16; retransmits = 5; nameserver = ["{address}:53"]; }}
  url_tld = "{suffixes}"; allow_raw_input = true; task_timeout = 8s;
}}
logging {{ type = "file"; filename = "{base}/rspamd.log"; level = "notice"; }}
worker "rspamd_proxy" {{
  bind_socket = "{base}/socket mode=0666"; milter = yes; timeout = 120s; count = {count};
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
actions {{ reject = 15; add_header = 6; }}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
spf {{ spf_cache_size = 2k; spf_cache_expire = 1d; }}
dkim {{ dkim_cache_size = 2k; dkim_cache_expire = 1d; time_jitter = 6h; trusted_only = false; skip_multi = false; }}
arc {{ sign_local = false; sign_inbound = false; sign_authenticated = false; }}
dmarc {{ actions {{ reject = "reject"; quarantine = "add header"; }} }}
milter_headers {{ use = ["authentication-results", "spam-header"]; skip_local = false; skip_authenticated = false; }}
"""

# Everything as the package has it, but for names and places, and for DMARC's actions.
RSPAMD_OVERRIDES = {
    "options.inc": 'dns {{ nameserver = ["{address}:53"]; }} url_tld = "{suffixes}";',
    "worker-normal.inc": "enabled = false;",
    "worker-controller.inc": "enabled = false;",
    "worker-proxy.inc": 'bind_socket = "{base}/socket mode=0666"; count = {count};'
                        ' upstream "local" {{ default = yes; self_scan = yes; }}',
    "dmarc.conf": 'actions {{ reject = "reject"; quarantine = "add header"; }}',
    "milter_headers.conf": 'use = ["authentication-results", "spam-header"]; skip_local = false;',
}

# Over what `haraka -i` sets up: the plugin, names and places. Its page on performance wants `nodes=cpus`.
HARAKA = {
    "me": "{hostname}\n",
    "plugins": "rcpt_to.in_host_list\nmailauth\nqueue/smtp_forward\n",
    "host_list": "rcpt.example\n",
    "smtp.ini": "listen=127.0.0.1:{port}\nnodes=cpus\n",
    "smtp_forward.ini": "host=127.0.0.1\nport={sink}\n",
    "mailauth.ini": "strict={strict}\n",
}

GATE = {
    "hostname": HOSTNAME,
    "smtp.recipient_domains": ["rcpt.example"],
    "policy.mode": "enforce",
}


class Stack:
    """What takes mail at `port`, from a client that a PROXY header of version `proxy` names; the servers that it is made of."""

    def __init__(self, port, servers, proxy="v2"):
        self.port, self.servers, self.proxy = port, servers, proxy

    def cpu(self):
        """Seconds that all of them have used, those that have ended included."""
        return sum(server.cpu() for server in self.servers)

    def memory(self):
        """MiB that all of them have now, what several share divided among them."""
        total = 0
        for pid in tree(server.process.pid for server in self.servers):
            try:
                rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue  # ended meanwhile
            total += next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
        return total / 1024


class Stage(stage.Stage):
    """Starts servers in a directory that other users can reach, each in a mount namespace with a resolv.conf of ours."""

    def __init__(self, directory, binary, rig):
        super().__init__(directory, binary, rig)
        directory.chmod(0o755)
        # Another for each run, since port 53 of it is taken.
        self.name_server = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
        # The names of the corpus are below `example`, which no list has: as if it were a public suffix like any other.
        self.suffixes = directory / "suffixes"
        self.suffixes.write_text(SUFFIXES.read_text() + "example\n")
        self.resolver = directory / "resolv.conf"
        self.resolver.write_text(f"nameserver {self.name_server}\noptions timeout:2 attempts:1\n")

    def end(self):
        """Ends all that was started, the newest first, each with what it has started."""
        for server in reversed(self.servers):
            # Not by process group: Postfix's master leaves that of its parent.
            everything = tree([server.process.pid])
            for sign in (signal.SIGTERM, signal.SIGKILL):
                for pid in everything:
                    try:
                        os.kill(pid, sign)
                    except ProcessLookupError:
                        pass
                try:
                    server.process.wait(2)
                except subprocess.TimeoutExpired:
                    pass

    def start(self, name, *command, **options):
        script = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'
        return super().start(name, "unshare", "--mount", "sh", "-ec", script, "sh", self.resolver, *command,
                             stdin=subprocess.DEVNULL, start_new_session=True, **options)

    def folder(self, name):
        base = self.directory / name
        base.mkdir(mode=0o755)
        return base

    def keeper(self, name, keep):
        """A sink that keeps the last `keep` messages: its port, that of its counts, and the directory of what it keeps."""
        base, stats = self.folder(name), free_port()
        port = self.sink("--stats", f"127.0.0.1:{stats}", "--keep", keep, "--dump-dir", base, name=name).port
        return port, stats, base

    def dns(self, zones, **options):
        """The name server of all, which listens at the address of the resolv.conf, too."""
        return super().dns(zones, addresses=[f"{self.name_server}@53"], **options)

    def postfix(self, name, sink, *, client="smtpd_upstream_proxy_protocol=haproxy", more=""):
        """Postfix alone, or with what `more` says; `client` says how it learns of the client."""
        base, port = self.folder(name), free_port()
        daemons = next(d for d in ("/usr/lib/postfix/sbin", "/usr/libexec/postfix") if os.path.isdir(d))
        for folder in ("etc", "queue", "data"):
            (base / folder).mkdir(mode=0o755)
        shutil.chown(base / "data", "postfix")
        values = {"base": base, "daemons": daemons, "hostname": HOSTNAME, "sink": sink, "port": port, "client": client}
        (base / "etc/main.cf").write_text(MAIN_CF.format(**values) + more)
        (base / "etc/master.cf").write_text(MASTER_CF.format(**values))
        (base / "policyd-spf.conf").write_text(POLICYD_SPF.format(**values))
        return Stack(port, [self.start(name, "postfix", "-c", base / "etc", "start-fg", port=port)])

    def milter(self, name, template, command, user, overrides=None):
        """A filter beside Postfix: where it listens, and its server.

        `command` gets the path of its configuration, and may name its directory; `overrides` go to override.d there.
        """
        base = self.folder(name)
        config, path = base / f"{name}.conf", base / "socket"
        values = {"base": base, "hostname": HOSTNAME, "address": self.name_server, "suffixes": self.suffixes,
                  "count": os.cpu_count()}
        config.write_text(template.format(**values))
        for file, text in (overrides or {}).items():
            (base / "override.d").mkdir(exist_ok=True)
            (base / "override.d" / file).write_text(text.format(**values))
        shutil.chown(base, user)
        server = self.start(name, *(str(word).format(**values) for word in command), config)
        # rspamd compiles its rules first.
        for _ in range(6000):
            if path.exists():
                return f"unix:{path}", server
            time.sleep(0.02)
        raise SystemExit(f"{name} does not listen: {self.log(name)}")

    def opendmarc(self, name, sink, spf):
        """Postfix with OpenDKIM and OpenDMARC, which has SPF's result from policyd-spf, or finds it by itself."""
        opendkim = self.milter(f"{name}-opendkim", OPENDKIM, ("opendkim", "-f", "-x"), "opendkim")
        template = OPENDMARC + (OPENDMARC_SPF if spf == "itself" else "")
        opendmarc = self.milter(f"{name}-opendmarc", template, ("opendmarc", "-f", "-c"), "opendmarc")
        more = f"smtpd_milters = {opendkim[0]}, {opendmarc[0]}\n"
        if spf == "policyd":
            more += "smtpd_recipient_restrictions = check_policy_service unix:private/policyd-spf\n"
            more += "policyd-spf_time_limit = 3600\n"
        stack = self.postfix(name, sink, more=more)
        stack.servers += [opendkim[1], opendmarc[1]]
        return stack

    def rspamd(self, name, sink, rules):
        """Postfix with rspamd: with SPF, DKIM, ARC and DMARC `alone`, or `all` that its package switches on."""
        command = ("rspamd", "-f", "-u", "_rspamd", "-g", "_rspamd")
        if rules == "alone":
            template, overrides = RSPAMD, {}
        else:
            template, overrides = '.include "/etc/rspamd/rspamd.conf"\n', RSPAMD_OVERRIDES
            command += tuple(f"--var={place}={{base}}" for place in ("LOCAL_CONFDIR", "DBDIR", "RUNDIR", "LOGDIR"))
        path, server = self.milter(f"{name}-filter", template, (*command, "-c"), "_rspamd", overrides)
        stack = self.postfix(name, sink, more=f"smtpd_milters = {path}\n")
        stack.servers.append(server)
        return stack

    def haraka(self, name, sink, how):
        """Haraka with mailauth, which is `strict` or `lenient`, by a plugin of ours; it forwards while the client waits."""
        base, port, modules = self.directory / name, free_port(), self.rig / "haraka/node_modules"
        haraka = next(modules.glob("node-linux-*/bin/node"), None), modules / "Haraka/bin/haraka"
        if not haraka[0]:
            raise SystemExit(f"no Haraka in {modules}: --install")
        subprocess.run([*haraka, "-i", base], check=True, stdout=subprocess.DEVNULL)
        values = {"hostname": HOSTNAME, "port": port, "sink": sink, "strict": str(how == "strict").lower()}
        for file, text in HARAKA.items():
            (base / "config" / file).write_text(text.format(**values))
        connection = base / "config/connection.ini"
        connection.write_text(connection.read_text().replace("hosts[] =\n", "hosts[] = 127.0.0.0/8\n", 1))
        shutil.copy(PLUGIN, base / "plugins")
        return Stack(port, [self.start(name, *haraka, "-c", base, port=port)], proxy="v1")

    def gate_alone(self, name, upstream, dns, reject):
        """The gate before whoever takes mail at the port `upstream`; it asks the name server at the port `dns`."""
        server = self.gate(name, upstream, dns, GATE | {"upstream.identity": "xclient", "policy.reject": reject})
        return Stack(server.port, [server])

    def gate_and_postfix(self, name, sink, dns, reject):
        """The gate before Postfix, to which it names the client by XCLIENT."""
        behind = self.postfix(f"{name}-behind", sink, client="smtpd_authorized_xclient_hosts=127.0.0.1")
        stack = self.gate_alone(name, behind.port, dns, reject)
        stack.servers += behind.servers
        return stack


class Arguments(argparse.ArgumentParser):
    """The command line of who compares `stacks`: those of them that are wanted, the rig, the gate."""

    def __init__(self, description, stacks):
        super().__init__(description=description)
        self.stacks = stacks
        self.add_argument("--rig", type=pathlib.Path, required=True)
        self.add_argument("--only", type=lambda text: text.split("+"), default=list(stacks),
                          help="joined by +: " + "; ".join(stacks))
        self.add_argument("--install", action="store_true",
                          help="first install what is missing, by apt-get, and by npm in the rig")
        self.add_argument("binary", nargs="?", default="target/release/dmarcgate")

    def read(self):
        """Reads it, installs what that asks for, and prints what is compared."""
        arguments = self.parse_args()
        arguments.rig = arguments.rig.resolve()
        if unknown := set(arguments.only) - set(self.stacks):
            self.error(f"no such stack: {', '.join(unknown)}")
        if arguments.install:
            install(arguments.rig)
        print(versions(arguments.rig, arguments.binary), end="\n\n", flush=True)
        return arguments


def install(rig):
    """Installs what is not there, Debian's so that none of it is started as a service of the machine, npm's in the rig."""
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        run("apt-get", "install", "--yes", "--quiet", "--no-upgrade", "--no-install-recommends", *PACKAGES,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    finally:
        if ours:
            policy.unlink()
    folder = rig / "haraka"
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": NPM}))
    # What is optional are plugins that are not used here.
    run("npm", "install", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)


def run(*command, **options):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, **options)


def versions(rig, binary):
    """What is compared, as Debian's packages, npm's and the gate call it."""
    listed = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *PACKAGES], capture_output=True, text=True)
    modules = (json.loads(path.read_text()) for name in NPM for path in rig.glob(f"haraka/node_modules/{name}/package.json"))
    gate = subprocess.run([binary, "--version"], capture_output=True, text=True)
    return listed.stdout + "".join(f"{one['name']} {one['version']}, " for one in modules) + gate.stdout.strip()


def delivered(stats):
    """How many messages the sink has taken."""
    with socket.create_connection(("127.0.0.1", stats), 10) as connection:
        connection.sendall(b"?\n")
        return json.loads(connection.makefile().readline())["msgs"]


def wait_for_delivery(stats, count, patience=120):
    """Waits until the sink has taken `count` messages: the queue is empty then."""
    deadline = time.monotonic() + patience
    while (taken := delivered(stats)) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"the sink has {taken} of {count} messages")
        time.sleep(0.05)


def message_id(content):
    return content.partition(b"\nMessage-ID: ")[2].partition(b"\n")[0].strip()


def handling(stored):
    """What a delivered message says of DMARC: `marked` for a recipient's mail server to act on, or what its result is.

    `stored` is the message as the sink got it. Only fields of this host count, and the topmost of each.
    """
    results = None
    for name, value in fields(stored):
        if name == "x-dmarc-fail-policy" or name == "x-spam" and value.lower() == "yes":
            return "marked"
        if name == "authentication-results" and value.split(";")[0].strip() == HOSTNAME and "dmarc=" in value:
            results = results or value
    if results is None:
        return "no result"
    result = results.split("dmarc=", 1)[1].split()[0].strip(";")
    # OpenDMARC and mailauth mark by their result alone: `dmarc=fail (p=quarantine dis=none)`, `policy.dmarc=quarantine`, which
    # differs from what is published (RFC 9989 §9.1).
    asked = re.search(r"policy\.dmarc=(\w+)", results) or re.search(r"\b(?:p|sp|policy)=(quarantine|reject)", results)
    return "marked" if result == "fail" and asked and asked[1] != "none" else result


def fields(stored):
    """The header fields, unfolded: lower-case name and value."""
    header = stored.replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode("utf-8", "replace")
    for line in header.replace("\n\t", " ").replace("\n ", " ").split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip().lower(), value.strip()
