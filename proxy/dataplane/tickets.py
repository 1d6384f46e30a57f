"""Which TLS 1.3 clients get a session ticket. One costs 6 % of a fresh connection, and most programs that connect for
each call never use it; browsers, Java and Node do, and show it in their next ClientHello."""

from typing import Final

FIRST: Final = 16
ONE_IN: Final = 16


class Tickets:
    """Counts the handshakes of each app since one last resumed: the apps of a policy, so that the counts are few."""

    def __init__(self) -> None:
        self._unused: dict[str, int] = {}

    def number(self, app: str, *, resumes: bool) -> int:
        """Tickets for this handshake. `resumes`: its ClientHello offers a session of before (RFC 8446 section 4.2.11).

        After `FIRST` that nobody came back with, one handshake in `ONE_IN` still gets one, so that a client that does
        use them is found.
        """
        if resumes:
            self._unused[app] = 0
            return 1
        unused = self._unused[app] = self._unused.get(app, 0) + 1
        return int(unused <= FIRST or unused % ONE_IN == 0)
