"""A real OpenSMTPD behind the gate. Its places are compiled in: it gets them in a mount namespace of its own.

Without TLS, and so without AUTH, which it knows under TLS alone ("auth requires tls"): the one of Debian 12, 6.8.0p2
with OpenSSL 3, ends the handshake of every client by alert "internal error" (EVP lib), since its keys are in another
process.
"""

import subprocess

from mta import DOMAIN, TOOLS, Mta, accounts, end, free_ports, isolated, wait_for_port

CONFIGURATION = """
table users {{ "rcpt@{domain}" = "nobody", "postmaster@{domain}" = "nobody" }}
listen on 127.0.0.1 port {proxy} proxy-v2 hostname mta.example.net
action box mda "/bin/sh {base}/store" virtual <users> user nobody
match from any for domain "{domain}" action box
"""

STORE = """
umask 022
file=$(mktemp {base}/mail/box/tmp/XXXXXXXX)
cat > "$file"
mv "$file" {base}/mail/box/new/
"""


class OpenSmtpd(Mta):
    """A running OpenSMTPD that takes PROXY headers (version 2) at `proxy`."""

    def __init__(self):
        super().__init__("opensmtpd")
        self.proxy = ("127.0.0.1", free_ports(1)[0])
        for name in ("mail/box/new", "mail/box/tmp", "spool/smtpd", "run", "lib/opensmtpd/empty"):
            (self.base / name).mkdir(parents=True, mode=0o711)
        for name in ("new", "tmp"):
            (self.base / "mail" / "box" / name).chmod(0o777)
        (self.base / "store").write_text(STORE.format(base=self.base))
        configuration = self.base / "smtpd.conf"
        configuration.write_text(CONFIGURATION.format(base=self.base, domain=DOMAIN, proxy=self.proxy[1]))
        # No name server: what it asks for (the client's name) fails at once.
        (self.base / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        binds = accounts(self.base, ["opensmtpd", "opensmtpq"]) + [
            (self.base / "resolv.conf", "/etc/resolv.conf"), (self.base / "spool", "/var/spool"),
            (self.base / "lib", "/var/lib"), (self.base / "run", "/run"),
            (TOOLS / "opensmtpd" / "usr" / "libexec", "/usr/libexec"),
        ]
        binary = TOOLS / "opensmtpd" / "usr" / "sbin" / "smtpd"
        with (self.base / "opensmtpd.log").open("wb") as output:
            self._process = subprocess.Popen(
                isolated([binary, "-d", "-v", "-f", configuration], binds),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )
        try:
            wait_for_port(self.proxy, self._process, self.log)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Ends it. Safe to call twice."""
        end(self._process)
        super().stop()
