"""What must hold, whatever broke: compares what clients know with what the mail server has and the store tells."""

import sys
import typing

from .load import Outcome
from .messages import Kind
from .wire import REFUSALS

# The second within which kill -9 may lose rows (README, When something fails), and what the clients' own clock is late.
ROWS_AT_RISK = 1.0
LATENESS = 0.5


class Copy(typing.NamedTuple):
    """A message as the mail server has it."""

    attempt: int
    client: str
    body: str
    # The value of X-DMARC-Fail-policy.
    tag: str | None
    # Words of the uppermost Authentication-Results: whose it is, and "dmarc=...".
    results: frozenset


class Ledger:
    """Everything known; `entries` gives what the mail server has taken since it was last called."""

    def __init__(self, entries):
        self._entries = entries
        # {message-id: [Copy, ...]}
        self.copies = {}
        # When the run began, and when the gate was killed.
        self.began = 0.0
        self.kills = []
        # How long before a kill the oldest row was answered that it has cost; and how many.
        self.oldest_lost, self.lost_rows = 0.0, 0

    def read(self):
        """Reads what the mail server has got meanwhile."""
        for entry in self._entries():
            words = frozenset(
                sys.intern(word.rstrip(";")) for at, word in enumerate(entry["results"].split())
                if at == 0 or word.startswith("dmarc="))
            self.copies.setdefault(entry["message"], []).append(
                Copy(entry["attempt"], entry["client"], sys.intern(entry["body"]), entry["tag"], words))

    def broken(self, messages):
        """What does not hold of the mail of these messages."""
        return [problem for message in messages for problem in self._broken(message)]

    def strangers(self, messages):
        """What is at the mail server and nobody has sent."""
        known = {message.message_id for message in messages}
        return [f"never sent: {name}" for name in self.copies if name not in known]

    def _broken(self, message):
        copies = self.copies.get(message.message_id, [])
        for attempt in message.attempts:
            if attempt.outcome is None:
                continue
            said = f"{message.message_id} attempt {attempt.number} ({message.kind.value}, {attempt.outcome.value}" \
                   f" {attempt.reply!r})"
            here = [copy for copy in copies if copy.attempt == attempt.number]
            if attempt.outcome is Outcome.ACCEPTED and not here:
                yield f"lost: {said} is not at the mail server"
            if len(here) > 1:
                yield f"doubled: {said} is there {len(here)} times"
            if here and attempt.outcome in (Outcome.REFUSED, Outcome.BROKEN):
                yield f"taken all the same: {said}"
            # The mail server's own reply was lost after the dot, and the client was told to come again.
            if here and attempt.outcome is Outcome.DEFERRED and not attempt.reply.startswith("451 4.4.2"):
                yield f"put off without need: {said} is at the mail server"
            if attempt.outcome is Outcome.REFUSED and not rightly_refused(message, attempt):
                yield f"refused without reason: {said}"
            for copy in here:
                yield from (f"{wrong}: {said} {copy}" for wrong in wrongs(message, attempt, copy))

    def duplicates(self, message):
        """Copies beyond the first."""
        return max(0, len(self.copies.get(message.message_id, [])) - 1)

    def rows(self, messages, rows):
        """What does not hold of the rows of these messages."""
        problems = []
        self.lost_rows, self.oldest_lost = 0, 0.0
        for message in messages:
            answered = [a for a in message.attempts
                        if a.dot is not None and a.outcome in (Outcome.ACCEPTED, Outcome.REFUSED)]
            unknown = sum(a.outcome is Outcome.UNKNOWN for a in message.attempts)
            have = rows.get(message.domain, 0)
            if have > len(answered) + unknown:
                problems.append(f"rows: {message.domain} has {have}, {len(answered)} were answered")
            if have < len(answered):
                # An answer that was on its way when the gate died is read a little later.
                ages = (kill - a.ended for a in answered for kill in self.kills)
                age = min((age for age in ages if age > -LATENESS), default=None)
                if age is None or age > ROWS_AT_RISK + LATENESS:
                    told = [f"{a.ended - self.began:.2f} s: {a.reply}" for a in answered]
                    problems.append(f"rows: {message.domain} has {have}, killed {age} s later; answered at {told}")
                else:
                    self.lost_rows += 1
                    self.oldest_lost = max(self.oldest_lost, age)
        return problems


def rightly_refused(message, attempt):
    """Whether a 5xx has one of the two reasons there are."""
    if message.kind is Kind.UNWANTED:
        return attempt.dot is not None and attempt.reply in REFUSALS
    return message.kind is Kind.FORGED and attempt.dot is not None and "DMARC" in attempt.reply


def wrongs(message, attempt, copy):
    """What is wrong with a copy at the mail server."""
    doubt = "dmarc=temperror" in copy.results
    if copy.body != message.digest:
        yield "changed"
    if copy.client != attempt.client:
        yield "under another client's name"
    if "mx.example.net" not in copy.results:
        yield "not evaluated"
    if message.kind.honest and copy.tag:
        yield "marked without reason"
    if message.kind.honest and not doubt and "dmarc=pass" not in copy.results:
        yield "not passed"
    if not message.kind.honest and not doubt and not copy.tag:
        yield "a forgery without a mark"
    if message.kind is Kind.FORGED and not doubt:
        yield "a forgery that was to be refused"
