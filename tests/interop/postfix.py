"""A real Postfix in a directory of its own: own configuration, queue, data, log and ports on loopback.

It trusts loopback as much as a careless administrator's Postfix does (`mynetworks`), so that a gate which hides its
clients would make it an open relay: the tests would see that.
"""

import grp
import os
import pwd
import shutil
import subprocess

from mta import DOMAIN, Mta, free_ports
from sasl import SaslServer

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
myhostname = mta.example.net
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
relay_domains =
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {base}/mail
virtual_mailbox_maps = inline:{{ {{ rcpt@{domain} = box/ }} {{ postmaster@{domain} = box/ }} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_mailbox_limit = 0
message_size_limit = 33554432
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {base}/sasl
smtpd_authorized_xclient_hosts = 127.0.0.1
smtpd_peername_lookup = no
smtpd_sender_restrictions = check_sender_access inline:{{
    {{ refused@sender.example = 550 5.7.27 This sender is refused by name }}
    {{ deferred@sender.example = 450 4.7.28 This sender has to wait }} }}
header_checks = regexp:{base}/etc/header_checks
disable_dns_lookups = yes
default_transport = discard:nothing leaves this test
"""

MASTER_CF = """
127.0.0.1:{xclient_port} inet n - n - - smtpd
127.0.0.1:{proxy_port} inet n - n - - smtpd
    -o smtpd_upstream_proxy_protocol=haproxy -o smtpd_authorized_xclient_hosts=
    -o message_size_limit=10485760
127.0.0.1:{plain_port} inet n - n - - smtpd
    -o smtpd_authorized_xclient_hosts=
127.0.0.1:{relay_port} inet n - n - - smtpd
    -o smtpd_upstream_proxy_protocol=haproxy -o mynetworks=0.0.0.0/0
127.0.0.1:{impatient_port} inet n - n - - smtpd
    -o smtpd_timeout=2s
127.0.0.1:{outgoing_port} inet n - n - - smtpd
    -o smtpd_authorized_xclient_hosts= -o content_filter=smtp:[127.0.0.1]:{gate_port}
127.0.0.1:{outgoing_tls_port} inet n - n - - smtpd
    -o smtpd_authorized_xclient_hosts= -o content_filter=smtp-tls:[127.0.0.1]:{gate_tls_port}
smtp unix - - n - - smtp
smtp-tls unix - - n - - smtp
    -o smtp_tls_security_level=encrypt -o smtp_tls_loglevel=1 -o smtp_line_length_limit=0
    -o smtp_bind_address=127.0.0.53
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
discard unix - - n - - discard
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix(Mta):
    """A running Postfix; `stop` ends it and removes its directory."""

    def __init__(self):
        super().__init__("postfix")
        addresses = [("127.0.0.1", port) for port in free_ports(9)]
        # `relay` is an open relay whoever the client is; `impatient` waits two seconds for anything; what comes to
        # `outgoing` goes out by Postfix's own client to `gate_port`, and what comes to `outgoing_tls` by TLS to
        # `gate_tls_port`, where tests start gates.
        self.xclient, self.proxy, self.plain, self.relay, self.impatient = addresses[:5]
        self.outgoing, self.outgoing_tls, (_, self.gate_port), (_, self.gate_tls_port) = addresses[5:]
        self._write_configuration()
        self._sasl = SaslServer(self.base / "sasl")
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Ends it. Safe to call twice."""
        if self.base.exists():
            self._run("stop", check=False)
            self._sasl.stop()
        super().stop()

    def start(self):
        """Starts it; ends when its sockets listen."""
        self._run("start")

    def restart(self):
        """Ends it, with every connection it has, and starts it again."""
        self._run("stop")
        self.start()

    def _write_configuration(self):
        nobody = pwd.getpwnam("nobody")
        for name in ("postfix", "postdrop"):
            grp.getgrnam(name)
        daemons = next(d for d in ("/usr/lib/postfix/sbin", "/usr/libexec/postfix") if os.path.isdir(d))
        for name in ("etc", "queue", "data", "mail"):
            (self.base / name).mkdir(mode=0o755)
        shutil.chown(self.base / "data", "postfix")
        shutil.chown(self.base / "mail", nobody.pw_uid, nobody.pw_gid)
        values = {
            "base": self.base, "daemons": daemons, "domain": DOMAIN, "uid": nobody.pw_uid, "gid": nobody.pw_gid,
            "xclient_port": self.xclient[1], "proxy_port": self.proxy[1], "plain_port": self.plain[1],
            "relay_port": self.relay[1], "impatient_port": self.impatient[1], "outgoing_port": self.outgoing[1],
            "gate_port": self.gate_port, "outgoing_tls_port": self.outgoing_tls[1], "gate_tls_port": self.gate_tls_port,
        }
        (self.base / "etc" / "header_checks").write_text("/^Subject: refuse me/ REJECT This subject is refused\n")
        (self.base / "etc" / "main.cf").write_text(MAIN_CF.format(**values))
        (self.base / "etc" / "master.cf").write_text(MASTER_CF.format(**values))

    def _run(self, command, check=True):
        # Not through pipes: the daemon would keep them open.
        with (self.base / "start.log").open("ab") as output:
            arguments = ["postfix", "-c", str(self.base / "etc"), command]
            done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60)
        if check and done.returncode != 0:
            said = (self.base / "start.log").read_text(errors="replace")
            raise RuntimeError(f"postfix {command} ended with {done.returncode}\n{said}\n{self.log()}")
