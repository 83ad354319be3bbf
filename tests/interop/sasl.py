"""The other end of `smtpd_sasl_type = dovecot`: as much of Dovecot's auth protocol as Postfix needs to know a user."""

import base64
import hmac
import os
import socketserver
import threading

from mta import LOGIN

GREETING = (
    "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nMECH\tCRAM-MD5\nSPID\t1\nCUID\t1\n"
    "COOKIE\t00000000000000000000000000000000\nDONE\n"
)
CHALLENGE = b"<1896.697170952@mta.example.net>"


class SaslServer:
    """Listens at a path of the file system until `stop`."""

    def __init__(self, path):
        self._server = socketserver.ThreadingUnixStreamServer(str(path), Session)
        self._server.daemon_threads = True
        os.chmod(path, 0o666)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class Session(socketserver.StreamRequestHandler):
    """One connection of Postfix; requests have numbers, and those that go on are kept by them."""

    def handle(self):
        self.wfile.write(GREETING.encode())
        pending = {}
        for line in self.rfile:
            verb, *fields = line.decode().rstrip("\n").split("\t")
            if verb == "AUTH":
                number, mechanism, *more = fields
                response = next((field[5:] for field in more if field.startswith("resp=")), None)
                pending[number] = (mechanism, [])
            elif verb == "CONT":
                number, response = fields
            else:
                continue
            mechanism, said = pending[number]
            if response is not None:
                said.append(base64.b64decode(response))
            verdict = judge(mechanism, said)
            if isinstance(verdict, bytes):
                reply = f"CONT\t{number}\t{base64.b64encode(verdict).decode()}\n"
            else:
                del pending[number]
                reply = f"{'OK' if verdict else 'FAIL'}\t{number}\tuser={LOGIN[0]}\n"
            self.wfile.write(reply.encode())


def judge(mechanism, said):
    """The next challenge, or whether the login is right."""
    user, password = (word.encode() for word in LOGIN)
    if mechanism == "LOGIN":
        return [b"Username:", b"Password:", said == [user, password]][min(len(said), 2)]
    if mechanism == "PLAIN":
        return b"" if not said else said[0].split(b"\0")[1:] == [user, password]
    return CHALLENGE if not said else said == [user + b" " + hmac.digest(password, CHALLENGE, "md5").hex().encode()]
