"""A small table, its index, and a detector that finds nothing of its own."""

from collections.abc import Sequence

from proxy.config.snapshot import DlpExactMatch
from proxy.customdata.build import Builder
from proxy.customdata.index import MAGIC, Index
from proxy.customdata.match import matches, occurrences
from proxy.customdata.words import Kind
from proxy.model import Finding

MASTER, KEY_ID, SALT = b"m" * 32, "0badcafe", "5a" * 16
COLUMNS: tuple[tuple[str, Kind], ...] = (("name", "name"), ("email", "email"), ("iban", "number"), ("phone", "phone"))
ROWS = (
    ("Jane Roe", "jane.roe@corp.example", "DE89 3704 0044 0532 0130 00", "+49 30 1234567"),
    ("Müller, Jürgen", "jm@corp.example", "GB82 WEST 1234 5698 7654 32", "020 7946 0999"),
    ("John A. Smith", "js@corp.example", "FR14 2004 1010 0505 0001 3M02 606", "(415) 555-2671"),
)


def built(
    rows: Sequence[Sequence[str]] = ROWS, columns: Sequence[tuple[str, Kind]] = COLUMNS, master: bytes = MASTER
) -> tuple[bytes, str]:
    """(file, digest)"""
    builder = Builder(columns, master, KEY_ID, SALT)
    for row in rows:
        builder.add(row)
    data = b"".join(builder.finish())
    return data, data[len(MAGIC) : len(MAGIC) + 64].decode()


def loaded(rows: Sequence[Sequence[str]] = ROWS, columns: Sequence[tuple[str, Kind]] = COLUMNS) -> Index:
    data, digest = built(rows, columns)
    return Index.load(data, digest, {KEY_ID: MASTER})


def rule(columns: int = 2, of: Sequence[str] = (), within: int = 20, at_least: int = 1) -> DlpExactMatch:
    return DlpExactMatch("customers", "CUSTOMER_RECORD", "0" * 64, columns, frozenset(of), within, at_least)


def found(index: Index, texts: Sequence[str], wanted: DlpExactMatch | None = None) -> list[str]:
    """The matched cells as they stand in the texts, in order."""
    seen = occurrences(index, list(enumerate(texts)))
    places = sorted(matches(index, wanted or rule(), seen), key=lambda place: (place.text, place.start, place.end))
    return [texts[place.text][place.start : place.end] for place in places]


class Nothing:
    """A detector that finds nothing."""

    def detect(self, texts: Sequence[str], profile: str, entities: frozenset[str] | None = None) -> list[list[Finding]]:
        del profile, entities
        return [[] for _ in texts]
