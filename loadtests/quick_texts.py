"""Texts from which the small encoder learns what the model says (`train_quick.py`). No labels: the model gives them.

Half of the templates of `dlp/pii_dev.json` (by hash; the other half measures), the tweets, own sentences filled with
made-up identities, lines alike (`quick_records.py`), documentation and the translated messages of installed programs;
and all of these with identities spliced in at random places, so that what stands around a name is not learnt by heart.
"""

import gettext
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.quick_records import Records
from loadtests.train_gate import LOCALES, filled, held_out, identity, ordinary, tweets

LANGUAGES = {"de": "de", "es": "es", "fr": "fr", "it": "it", "pt": "pt", "pt_BR": "pt", "nl": "nl"}
"""Locales of translated messages, and the language whose names go into them."""
MESSAGES = Path("/usr/share/locale")
INITIALS = "ABCDEFGHJKLMNPRSTW"
JOINTS = (" ", " ", " ", ", ", ": ", "\n", " - ", " (", '"', "'")
FORMS = (
    "{name}", "{name}", "{name}", "{first}", "{first}", "{last}", "{last}", "{first} {last}",
    "{first} {initial}. {last}", "{last}, {first}", "{initial}. {last}", "{city}", "{city}", "{city}, {state}",
    "{street}", "{address}", "{zip} {city}", "{country}", "{state}", "{phone}", "{zip}",
)  # fmt: skip


class Part(NamedTuple):
    """`share`: how often one pass over all shows each text, on average."""

    name: str
    texts: Sequence[str]
    share: float


class Splicer:
    """Ordinary texts with identities in them. Seeded."""

    def __init__(self, seed: int = 11) -> None:
        from faker import Faker

        Faker.seed(seed)
        self.pick = random.Random(seed)
        self._fakers = {language: [Faker(locale) for locale in locales] for language, locales in LOCALES.items()}

    def faker(self, language: str = "") -> Any:
        return self.pick.choice(self._fakers[language or self.pick.choice(list(self._fakers))])

    def identity(self, fake: Any) -> str:
        def filler(hole: re.Match[str]) -> str:
            return self.pick.choice(INITIALS) if hole[1] == "initial" else identity(fake, hole[1])

        return re.sub(r"\{([a-z]+)\}", filler, self.pick.choice(FORMS))

    def cased(self, text: str) -> str:
        chance = self.pick.random()
        return text.lower() if chance < 0.12 else text.upper() if chance < 0.15 else text

    def spliced(self, text: str, fake: Any) -> str:
        """Some words of the text in a row, one to three of them followed or replaced by an identity."""
        words = re.split(r"(\s+)", text)
        count = len(words) // 2 + 1
        if count < 3:
            return text
        size = min(count, self.pick.randint(4, 22))
        first = self.pick.randint(0, count - size)
        taken = words[2 * first : 2 * (first + size) - 1]
        for _ in range(self.pick.choice((1, 1, 1, 2, 2, 3))):
            at = 2 * self.pick.randrange((len(taken) + 1) // 2)
            kept = taken[at] + self.pick.choice(JOINTS) if self.pick.random() < 0.5 else ""
            taken[at] = kept + self.identity(fake)
        return self.cased("".join(taken))

    def soup(self, words: Sequence[str], fake: Any) -> str:
        """Words and identities in no order."""
        some = [
            self.identity(fake) if self.pick.random() < 0.2 else self.pick.choice(words)
            for _ in range(self.pick.randint(5, 18))
        ]
        return self.cased(self.pick.choice((" ", " ", " ", ", ", "\n", "; ")).join(some))


def messages() -> Mapping[str, Sequence[str]]:
    """Translated messages of installed programs, by language; none where none are installed."""
    found: dict[str, list[str]] = {}
    for locale, language in LANGUAGES.items():
        for path in sorted(MESSAGES.glob(f"{locale}/LC_MESSAGES/*.mo")):
            found.setdefault(language, []).extend(_catalogue(path))
    return found


def _catalogue(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            catalogue: Mapping[Any, Any] = vars(gettext.GNUTranslations(file))["_catalog"]
    except (OSError, UnicodeDecodeError):
        return
    for text in catalogue.values():
        if isinstance(text, str) and 20 < len(text) < 400 and " " in text:
            yield text


def parts(data: Path) -> Iterator[Part]:
    make = Splicer()
    rows = json.loads((data / "dlp/pii_dev.json").read_text())
    known = [row["full_text"] for row in rows if not held_out(row)]
    short = list(tweets(data / "dlp/tweets_dev.conll"))
    foreign = messages()
    papers = list(ordinary(12_000_000))
    lines = [line for paper in papers for line in paper.split("\n") if len(line.split()) > 4]
    yield Part("known", known * 4, 2)
    yield Part("tweets", short * 2, 1.5)
    yield Part("filled", [make.cased(text) for text in filled(60)], 2)
    yield Part("papers", papers, 3)
    sampled = [make.pick.sample(list(texts), min(len(texts), 6000)) for texts in foreign.values()]
    yield Part("messages", [text for texts in sampled for text in texts], 0.5)
    yield Part(
        "spliced lines", [make.spliced(make.pick.choice(lines), _mostly_english(make)) for _ in range(26_000)], 0.7
    )
    for language, texts in foreign.items():
        spliced = [make.spliced(make.pick.choice(texts), make.faker(language)) for _ in range(7000)]
        yield Part(f"spliced {language}", spliced, 0.7)
    yield Part("spliced known", [make.spliced(make.pick.choice(known), make.faker()) for _ in range(8000)], 1)
    yield Part("spliced tweets", [make.spliced(make.pick.choice(short), make.faker()) for _ in range(5000)], 1)
    records = Records(make.pick, make.identity)
    yield Part("records", [make.cased(records.text(_mostly_english(make))) for _ in range(9000)], 1)
    words = [word for text in (*lines[:4000], *short[:1000], *known[:500]) for word in text.split() if len(word) < 20]
    yield Part("soup", [make.soup(words, make.faker()) for _ in range(6000)], 1)


def _mostly_english(make: Splicer) -> Any:
    return make.faker() if make.pick.random() < 0.2 else make.faker("en")
