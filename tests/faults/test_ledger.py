"""That the ledger sees what it is there to see: `python3 -m unittest tests.faults.test_ledger`."""

import unittest

from .ledger import Ledger
from .load import Attempt, Outcome
from .messages import Kind, Message
from .wire import REFUSAL

PASS = "mx.example.net; dmarc=pass header.from=x"
DOUBT = "mx.example.net; dmarc=temperror header.from=x"
FAIL = "mx.example.net; dmarc=fail header.from=x"


class Cases(unittest.TestCase):
    """Each case: a kind of message, an outcome with its reply, and the copies at the mail server."""

    def problems(self, kind, outcome, reply="250 Ok", copies=(), dot=1.0):
        """The first words of what the ledger finds wrong."""
        message = Message(7, kind, 1024)
        message.attempts.append(Attempt(1, 0.5, message.client, dot, 1.5, outcome, reply))
        entry = {"message": message.message_id, "attempt": 1, "client": message.client, "results": PASS,
                 "tag": None, "body": message.digest}
        ledger = Ledger(lambda: [entry | copy for copy in copies])
        ledger.read()
        return [problem.partition(":")[0] for problem in ledger.broken([message])]

    def test_mail(self):
        refused = "550 5.7.1 Email rejected per DMARC policy for x"
        for due, case in [
            ([], (Kind.SPF, Outcome.ACCEPTED, "250 Ok", [{}])),
            (["lost"], (Kind.SPF, Outcome.ACCEPTED, "250 Ok", [])),
            (["doubled"], (Kind.SPF, Outcome.ACCEPTED, "250 Ok", [{}, {}])),
            ([], (Kind.SPF, Outcome.UNKNOWN, "", [{}])),
            ([], (Kind.SPF, Outcome.UNKNOWN, "", [])),
            (["doubled"], (Kind.SPF, Outcome.UNKNOWN, "", [{}, {}])),
            (["taken all the same"], (Kind.SPF, Outcome.BROKEN, "", [{}])),
            ([], (Kind.SPF, Outcome.DEFERRED, "451 4.4.2 Lost", [{}])),
            (["put off without need"], (Kind.SPF, Outcome.DEFERRED, "451 4.7.0 DNS", [{}])),
            (["refused without reason"], (Kind.SPF, Outcome.REFUSED, refused, [])),
            ([], (Kind.UNWANTED, Outcome.REFUSED, REFUSAL, [])),
            (["refused without reason"], (Kind.UNWANTED, Outcome.REFUSED, refused, [])),
            ([], (Kind.FORGED, Outcome.REFUSED, refused, [])),
            (["taken all the same", "a forgery without a mark", "a forgery that was to be refused"],
             (Kind.FORGED, Outcome.REFUSED, refused, [{"results": FAIL}])),
            ([], (Kind.FORGED, Outcome.ACCEPTED, "250 Ok", [{"results": DOUBT}])),
            (["a forgery without a mark"], (Kind.MARKED, Outcome.ACCEPTED, "250 Ok", [{"results": FAIL}])),
            ([], (Kind.MARKED, Outcome.ACCEPTED, "250 Ok", [{"results": FAIL, "tag": "quarantine"}])),
            (["not passed"], (Kind.DKIM, Outcome.ACCEPTED, "250 Ok", [{"results": FAIL}])),
            (["marked without reason"], (Kind.DKIM, Outcome.ACCEPTED, "250 Ok", [{"tag": "quarantine"}])),
            (["not evaluated", "not passed"], (Kind.DKIM, Outcome.ACCEPTED, "250 Ok", [{"results": ""}])),
            (["changed"], (Kind.SPF, Outcome.ACCEPTED, "250 Ok", [{"body": "00"}])),
            (["under another client's name"], (Kind.SPF, Outcome.ACCEPTED, "250 Ok", [{"client": "192.0.2.1"}])),
        ]:
            with self.subTest(case=case):
                self.assertEqual(self.problems(*case), due)

    def test_rows(self):
        message = Message(7, Kind.SPF, 1024)
        message.attempts.append(Attempt(1, 9.0, message.client, 9.9, 10.0, Outcome.ACCEPTED, "250 Ok"))
        for due, rows, kills in [
            (0, {message.domain: 1}, []), (1, {message.domain: 2}, []), (1, {}, []), (0, {}, [10.9]), (0, {}, [9.9]),
            (1, {}, [13.0]), (1, {}, [9.0]), (0, {}, [9.0, 10.9]),
        ]:
            with self.subTest(rows=rows, kills=kills):
                ledger = Ledger(list)
                ledger.kills = kills
                self.assertEqual(len(ledger.rows([message], rows)), due)


if __name__ == "__main__":
    unittest.main()
