"""Lines alike with identities in some of their fields (logs, tables, JSON lines) for `quick_texts.py`: among so much
that is sure the six layers still see the name, and three have to learn it. Each text has a form of its own, made at
random of fields and joints, so that no form is learnt by heart.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

type Field = Callable[[Any], str]

LEVELS = ("INFO", "WARN", "ERROR", "DEBUG", "info", "warning", "[notice]", "E", "I", "level=info", "<6>")
PARTS = (
    "auth", "api", "billing", "worker-3", "sshd[4411]", "http.server", "kernel:", "orders", "crm", "queue.consumer",
    "mailer", "gateway", "session", "app.views", "scheduler", "import", "[main]", "node7", "db", "sync",
)  # fmt: skip
DEEDS = (
    "login ok for {}", "updated record of {}", "{} signed in", "session opened for user {}", "sent invoice to {}",
    "user {} not found", "assigned to {}", "{} changed the password", "approved by {}", "ticket reopened by {}",
    "export requested by {}", "call from {}", "refund for {} queued", "{} uploaded report.pdf",
    "shipment for {} left {}", "visit of {} in {}", "new customer: {}", "permission denied for {}", "lock held by {}",
    "merged accounts {} and {}", "reminder sent to {}", "owner={}", "contact: {}",
)  # fmt: skip
PLAIN = (
    "request served", "cache miss", "connection reset by peer", "retry in 5 s", "job finished", "flushed 12 pages",
    "GET /v1/items", "config reloaded", "health check passed", "slow query", "worker started", "token refreshed",
    "disk usage at 81%", "shutting down",
)  # fmt: skip
KEYS = ("user", "name", "customer", "owner", "by", "contact", "author", "patient", "city", "from", "to", "employee")
SIGNS = ('{"', '": "', '", "', '"}'), ("", "=", " ", ""), ("", ": ", ", ", "")
JOINTS = (" ", " ", " ", ", ", "\t", " | ", " - ", ";", " : ", ",")


class Records:
    """`identity` makes one of a person or place, by a generator of Faker."""

    def __init__(self, pick: random.Random, identity: Callable[[Any], str]) -> None:
        self._pick, self._identity = pick, identity
        self._drawn = 0

    def text(self, fake: Any) -> str:
        """2 to 12 lines."""
        lines = self._pick.randint(2, 12)
        form = self._pick.choice((self._log, self._log, self._table, self._pairs))
        self._drawn = self._pick.randrange(1000)
        return form(fake, lines)

    def _fields(self, some: Sequence[Field]) -> list[Field]:
        return [self._pick.choice(some) for _ in range(self._pick.randint(0, 3))]

    def _log(self, fake: Any, lines: int) -> str:
        front = [self._clock, *self._fields((self._level, self._part, self._number))]
        back = self._fields((self._number, self._number, self._mail))
        joint = self._pick.choice(JOINTS)
        deeds = self._pick.sample(DEEDS, self._pick.choice((1, 1, 2, 5)))
        often = self._pick.choice((0.3, 0.6, 1.0))
        made = []
        for _ in range(lines):
            named = self._pick.random() < often
            deed = self._pick.choice(deeds).format(*self._identities(fake)) if named else self._pick.choice(PLAIN)
            before, after = ([field(fake) for field in fields] for fields in (front, back))
            made.append(joint.join([*before, deed, *after]))
        return "\n".join(made)

    def _identities(self, fake: Any) -> list[str]:
        return [self._identity(fake) for _ in range(2)]

    def _table(self, fake: Any, lines: int) -> str:
        fields = [self._someone, *self._fields((self._number, self._clock, self._part, self._mail, self._someone))]
        self._pick.shuffle(fields)
        joint = self._pick.choice(JOINTS[3:])
        return "\n".join(joint.join(field(fake) for field in fields) for _ in range(lines))

    def _someone(self, fake: Any) -> str:
        return self._identity(fake)

    def _pairs(self, fake: Any, lines: int) -> str:
        keys = self._pick.sample(KEYS, self._pick.randint(1, 3))
        fields = self._fields((self._number, self._level, self._part, self._clock))
        opened, sign, joint, closed = self._pick.choice(SIGNS)
        made = []
        for _ in range(lines):
            pairs = [f"{key}{sign}{self._identity(fake)}" for key in keys]
            pairs += [f"f{at}{sign}{field(fake)}" for at, field in enumerate(fields)]
            made.append(opened + joint.join(pairs) + closed)
        return "\n".join(made)

    def _same(self, forms: Sequence[str]) -> str:
        """The one of this place for all lines of a text."""
        return forms[self._drawn % len(forms)]

    def _clock(self, _: Any) -> str:
        pick = self._pick
        day, hour, minute, second = pick.randint(1, 28), pick.randint(0, 23), pick.randint(0, 59), pick.randint(0, 59)
        month, thousandth = pick.randint(1, 12), pick.randint(0, 999)
        time = f"{hour:02}:{minute:02}:{second:02}"
        return self._same(
            (
                f"2026-{month:02}-{day:02}T{time}Z",
                f"2026-{month:02}-{day:02} {time},{thousandth:03}",
                f"[{day:02}/Mar/2026:{time} +0000]",
                f"Mar {day:2} {time}",
                f"{time}.{thousandth:03}",
                str(1_700_000_000 + pick.randrange(10**8)),
            )
        )

    def _number(self, _: Any) -> str:
        number = self._pick.randrange(10**6)
        return self._same(
            (
                f"id={number}",
                f"{number % 10**4}ms",
                f"req-{number * 4099 % 16**8:08x}",
                str(number % 10**5),
                f"{number / 100:.2f}",
                f"#{number % 10**4}",
                f"10.0.{number % 256}.{number // 256 % 256}",
            )
        )

    def _level(self, _: Any) -> str:
        return self._pick.choice(LEVELS)

    def _part(self, _: Any) -> str:
        return self._pick.choice(PARTS)

    @staticmethod
    def _mail(fake: Any) -> str:
        return str(fake.email())
