"""A real OpenSMTPD behind the gate. Its places are compiled in: it gets them in a mount namespace of its own."""

import subprocess

from mta import DOMAIN, LOGIN, TOOLS, Mta, accounts, free_ports, isolated, wait_for_port

CONFIGURATION = """
pki gate cert "{certificate}"
pki gate key "{key}"
table logins {{ "{user}" = "{password}" }}
table users {{ "rcpt@{domain}" = "nobody", "postmaster@{domain}" = "nobody" }}
listen on 127.0.0.1 port {proxy} proxy-v2 tls pki gate auth-optional <logins> hostname mta.example.net
action box mda "/bin/sh {base}/store" virtual <users> user nobody
action elsewhere relay host smtp://127.0.0.1:1
match from any for domain "{domain}" action box
match auth from any for any action elsewhere
"""

STORE = """
umask 022
file=$(mktemp {base}/mail/box/tmp/XXXXXXXX)
cat > "$file"
mv "$file" {base}/mail/box/new/
"""


class OpenSmtpd(Mta):
    """A running OpenSMTPD that takes PROXY headers (version 2) at `proxy`, with STARTTLS and AUTH under it."""

    def __init__(self, certificate):
        super().__init__("opensmtpd")
        self.proxy = ("127.0.0.1", free_ports(1)[0])
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", LOGIN[1]], stdout=subprocess.PIPE, check=True, text=True
        ).stdout.strip()
        for name in ("mail/box/new", "mail/box/tmp", "spool/smtpd", "run", "lib/opensmtpd/empty"):
            (self.base / name).mkdir(parents=True, mode=0o711)
        for name in ("new", "tmp"):
            (self.base / "mail" / "box" / name).chmod(0o777)
        (self.base / "store").write_text(STORE.format(base=self.base))
        configuration = self.base / "smtpd.conf"
        configuration.write_text(CONFIGURATION.format(
            base=self.base, domain=DOMAIN, user=LOGIN[0], password=hashed, proxy=self.proxy[1],
            certificate=certificate.certificate, key=certificate.key,
        ))
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
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        try:
            wait_for_port(self.proxy, self._process, self.log)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Ends it. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=30)
        super().stop()
