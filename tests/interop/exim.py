"""A real Exim in a directory of its own: as a server behind the gate, and as a client before it."""

import subprocess

from mta import DOMAIN, LOGIN, TOOLS, Mta, accounts, end, free_ports, isolated, wait_for_port

USER = "Debian-exim"
LOG = "log/mainlog"

COMMON = """
spool_directory = {base}/spool
log_file_path = {base}/log/%slog
log_selector = +smtp_protocol_error +proxy +incoming_interface
pid_file_path = {base}/exim.pid
keep_environment =
primary_hostname = mta.example.net
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
message_size_limit = 30M
deliver_drop_privilege = true
"""

SERVER = COMMON + """
hosts_proxy = ${{if eq{{$received_port}}{{{port}}}{{127.0.0.1}}{{}}}}
chunking_advertise_hosts = *
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept

begin acl
rcpt:
  accept authenticated = *
  require message = relay not permitted
          domains = {domain}
  require message = no such user
          local_parts = rcpt : postmaster
  accept

begin routers
elsewhere:
  driver = accept
  domains = ! {domain}
  transport = box
box:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = {base}/mail/box
  maildir_format

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and {{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${{if and {{{{eq{{$auth1}}{{{user}}}}}{{eq{{$auth2}}{{{password}}}}}}}}}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{user}}}{{{password}}}fail}}
  server_set_id = $auth1
"""

CLIENT = COMMON + """
begin routers
gate:
  driver = manualroute
  self = send
  route_list = * 127.0.0.1
  transport = gate

begin transports
gate:
  driver = smtp
  port = {port}
  interface = {source}
  allow_localhost
  helo_data = mail.good.example
  hosts_try_chunking = *
  {tls}
  message_linelength_limit = 1000000
"""


class Exim(Mta):
    """A running server that takes PROXY headers at `proxy`."""

    def __init__(self):
        super().__init__("exim", LOG)
        self.proxy = ("127.0.0.1", free_ports(1)[0])
        values = {"domain": DOMAIN, "user": LOGIN[0], "password": LOGIN[1], "port": self.proxy[1]}
        command = prepare(self, SERVER, values) + ["-bdf", "-oX", f"127.0.0.1.{self.proxy[1]}"]
        with (self.base / "start.log").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )
        try:
            wait_for_port(self.proxy, self._process, lambda: (self.base / "start.log").read_text() + self.log())
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Ends it. Safe to call twice."""
        end(self._process)
        super().stop()


class EximClient(Mta):
    """Exim that sends everything to the gate at `port`, from the address `source`, by TLS alone or never."""

    def __init__(self, port, source, tls):
        super().__init__("exim", LOG)
        tls = "hosts_require_tls = *" if tls else "hosts_avoid_tls = *"
        self._command = prepare(self, CLIENT, {"port": port, "source": source, "tls": tls})

    def send(self, sender, recipient, content):
        """Sends a message while we wait; what Exim's log says of it."""
        before = len(self.log())
        subprocess.run(
            self._command + ["-odf", "-i", "-f", sender, recipient], input=content.replace(b"\r\n", b"\n"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=True,
        )
        return self.log()[before:]


def prepare(mta, text, values):
    """Writes the configuration; the command that runs Exim with it."""
    for name in ("spool", "mail", "log"):
        (mta.base / name).mkdir()
        (mta.base / name).chmod(0o777)
    # Root may be the first to write there.
    (mta.base / LOG).touch()
    (mta.base / LOG).chmod(0o666)
    configuration = mta.base / "exim.conf"
    configuration.write_text(text.format(base=mta.base, **values))
    binary = TOOLS / "exim" / "usr" / "sbin" / "exim4"
    return isolated([binary, "-C", configuration], accounts(mta.base, [USER]))
