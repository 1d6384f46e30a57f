"""Names that the words before them announce: a title (`Dr. Roe`), an introduction (`my name is`), a salutation.

Fills what a model trained on news does not see: short messages, forms, quoted mail.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers._hints import Hints
from proxy.recognizers.base import LIKELY, POSSIBLE, Recognizer

_NAME: Final = r"[^\W\d_a-zßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþ][^\W\d_'\u2019\-]{1,24}(?:['\u2019\-][^\W\d_]{1,24})?"
_SUFFIX: Final = r"[A-Z]\.|van|von|de|der|den|di|da|del|la|le|al|bin|Jr\.?|Sr\.?|PhD|MD|DDS|DVM|II|III"
_JOINED: Final = rf"(?:[ ](?:{_NAME}|{_SUFFIX})(?!\w)){{0,3}}"
_FULL: Final = rf"{_NAME}{_JOINED}"
_ANY_WORD: Final = r"[^\W\d_]{2,24}(?:['\u2019\-][^\W\d_]{1,24})?"
_TITLE: Final = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Herr|Frau|Mme|Mlle|Madame|Monsieur|Señora?|Sra?|Signora?)"
_CALLED: Final = r"(?:[Nn]ame(?:'s|[ ]is|d[ ](?:him|her|them))|[Cc]alls?[ ](?:me|him|her|them)|[Mm]aiden name is)"
_FIELD: Final = (
    r"(?:[Nn]ame|[Ff]ull name|[Cc]ontact|[Cc]ustomer|[Pp]atient|[Ee]mployee|[Rr]ecipient|[Ss]igned by|"
    r"[Aa]ttn\.?|[Cc]c|[Ff]rom)"
)
_END: Final = r"(?=[ ]*(?:[.,!?\n]|\Z|and|but))"
_CUES: Final = tuple(
    (re.compile(pattern, flags), score)
    for pattern, flags, score in (
        (rf"(?<![\w.])(?P<name>{_TITLE}\.?[ ]{_FULL})", 0, LIKELY),
        (rf"(?<!\w)(?P<name>(?:mr|mrs|ms|dr|prof)\.[ ]{_ANY_WORD}(?:[ ]{_ANY_WORD})?)", re.IGNORECASE, POSSIBLE),
        (rf"(?<!\w){_CALLED}[ ](?P<name>{_FULL})", 0, LIKELY),
        (rf"(?<!\w)(?:my|his|her|their|full)[ ]name[ ]is[ ](?P<name>{_ANY_WORD}){_END}", re.IGNORECASE, POSSIBLE),
        (rf"(?<!\w){_FIELD}[ ]?:[ \t]{{1,8}}(?P<name>{_NAME}(?:[ ]{_NAME}){{1,3}})", 0, LIKELY),
        (rf"(?<!\w)(?:I am|I['\u2019]m|[Tt]his is)[ ](?P<name>{_NAME}[ ]{_NAME})(?!\w)", 0, LIKELY),
        (rf"(?:^|\n)(?:Dear|Hi|Hello|Hey)[ ](?P<name>{_FULL}),", 0, LIKELY),
        (rf"(?:[Rr]egards|[Ss]incerely|[Cc]heers|[Tt]hanks),[ ]?\n{{1,2}}(?P<name>{_FULL})[ ]?(?:\n|\Z)", 0, POSSIBLE),
        (rf"(?:^|\n)>[ ]?(?P<name>{_NAME}[ ]{_NAME})[ ]?(?=\n|\Z)", 0, POSSIBLE),
        (rf"(?<!\w)(?:said|says|asked|replied|wrote)[ ](?P<name>{_FULL})(?=[ ]*[.,!?:\n\"])", 0, POSSIBLE),
    )
)
_NEEDED: Final = (
    tuple(f"{title}{end}" for title in ("mr", "mrs", "ms", "miss", "mx", "dr", "prof", "herr", "frau", "mme", "mlle",
                                        "madame", "monsieur", "señor", "señora", "sr", "sra", "signor", "signora")
          for end in (" ", ". ")),
    ("mr. ", "mrs. ", "ms. ", "dr. ", "prof. "),
    ("ame's ", "ame is ", "amed ", "call me ", "call him ", "call her ", "calls me ", "calls him ", "calls her "),
    ("name is ",),
    tuple(f"{field}{gap}" for field in ("name", "contact", "customer", "patient", "employee", "recipient",
                                        "signed by", "attn", "attn.", "cc", "from") for gap in (":", " :")),
    ("i am ", "i'm ", "i\u2019m ", "this is "),
    ("dear ", "hi ", "hello ", "hey "),
    ("regards,", "sincerely,", "cheers,", "thanks,"),
    (">",),
    ("said ", "says ", "asked ", "replied ", "wrote "),
)  # fmt: skip
_HINTS: Final = Hints(_NEEDED)
"""What each cue needs, in the order of `_CUES`."""
_BEFORE_CHARS: Final = 16
_AFTER_CHARS: Final = 320
"""More than the longest title, name and what must follow it."""
_NO_NAMES: Final = frozenset(
    [
        "All",
        "Team",
        "Everyone",
        "Everybody",
        "There",
        "Sir",
        "Madam",
        "Customer",
        "Support",
        "Folks",
        "World",
        "Friend",
        "Friends",
        "Hiring",
        "Manager",
        "User",
        "Users",
        "The",
        "This",
        "That",
        "Not",
        "Now",
        "Here",
        "So",
        "Very",
        "Also",
        "Just",
        "Still",
        "Sure",
        "Sorry",
        "Happy",
        "Glad",
        "Going",
        "Trying",
        "Looking",
        "Required",
        "Optional",
        "None",
        "Null",
        "True",
        "False",
        "String",
        "Unknown",
        "Python",
        "Java",
        "not",
        "a",
        "an",
        "the",
        "is",
        "it",
        "my",
        "your",
        "required",
        "optional",
        "unknown",
        "used",
    ]
)


def _find(text: str) -> Iterator[Finding]:
    for cue, stretches in _HINTS.stretches(text, _BEFORE_CHARS, _AFTER_CHARS):
        pattern, score = _CUES[cue]
        for match in (match for start, end in stretches for match in pattern.finditer(text, start, end)):
            name = match["name"]
            words = name.replace(".", " ").split()
            if any(word in _NO_NAMES for word in words) or (len(words) == 1 and len(words[0]) < 2):
                continue
            yield Finding(
                "PERSON", match.start("name"), match.start("name") + len(name.rstrip(" .")), score, "person_name"
            )


RECOGNIZER: Final = Recognizer(
    name="person_name",
    entities=frozenset({"PERSON"}),
    layer="pattern",
    languages=frozenset({"en"}),
    find=_find,
)
