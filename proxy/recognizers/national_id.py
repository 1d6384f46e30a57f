"""Identity and tax numbers of countries: a shape, the check digits of python-stdnum, and words beside it.

One row per kind. Numbers that are digits alone need a context word: one in ten or eleven arbitrary numbers has right
check digits. Numbers of a telling form (letters in fixed places and a check character) count by themselves.
"""

import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from ahocorasick_rs import AhoCorasick

from proxy.model import Finding
from proxy.recognizers._hints import joined, occurrences
from proxy.recognizers.base import (
    CONTEXT_AFTER_CHARS,
    CONTEXT_BEFORE_CHARS,
    LIKELY,
    SURE,
    Recognizer,
    has_digit,
    near,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """`module`: of stdnum, its `is_valid` decides; empty: no check exists. `alone`: counts without context words."""

    entity: str
    pattern: str
    module: str
    context: frozenset[str]
    alone: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


KINDS: Final = (
    Kind("UK_NINO", r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]",
         "", _words("nino|national insurance|ni number|insurance number"), alone=True),
    Kind("ES_NIF", r"[0-9]{8}-?[A-HJ-NP-TV-Z]", "es.dni", _words("dni|nif|documento"), alone=True),
    Kind("ES_NIE", r"[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]", "es.nie", _words("nie|extranjero"), alone=True),
    Kind("IT_FISCAL_CODE", r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
         "it.codicefiscale",
         _words("codice fiscale|cf|fiscale"), alone=True),
    Kind("FI_PERSONAL_IDENTITY_CODE", r"[0-3][0-9][01][0-9]{3}[-+ABCDEFUVWXY][0-9]{3}[0-9A-FHJ-NPR-Y]", "fi.hetu",
         _words("hetu|henkilötunnus|personbeteckning"), alone=True),
    Kind("SG_NRIC_FIN", r"[STFGM][0-9]{7}[A-Z]", "", _words("nric|fin|identity card|singapore")),
    Kind("IN_PAN", r"[A-Z]{3}[PCHFATBLJG][A-Z][0-9]{4}[A-Z]", "in_.pan", _words("pan|permanent account|income tax")),
    Kind("IN_AADHAAR", r"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", "in_.aadhaar", _words("aadhaar|aadhar|uidai|uid")),
    Kind("PL_PESEL", r"[0-9]{11}", "pl.pesel", _words("pesel")),
    Kind("DE_TAX_ID", r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "de.idnr",
         _words("steuer|steuerid|steuer-id|steueridentifikationsnummer|identifikationsnummer|idnr|tax id")),
    Kind("FR_NIR", r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", "fr.nir",
         _words("nir|sécurité sociale|securite sociale|numéro de sécu|insee|social security")),
    Kind("NL_BSN", r"[0-9]{9}|[0-9]{4}\.[0-9]{2}\.[0-9]{3}", "nl.bsn", _words("bsn|burgerservicenummer|sofinummer")),
    Kind("BE_NN", r"[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}-?[0-9]{3}\.?[0-9]{2}", "be.nn",
         _words("rijksregister|rijksregisternummer|registre national|national number|insz|niss")),
    Kind("CH_AHV", r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", "ch.ssn", _words("ahv|avs|sozialversicherung"), alone=True),
    Kind("AT_VNR", r"[0-9]{4} ?[0-9]{6}", "at.vnr", _words("sozialversicherungsnummer|svnr|versicherungsnummer")),
    Kind("SE_PERSONNUMMER", r"(?:19|20)?[0-9]{6}[-+]?[0-9]{4}", "se.personnummer",
         _words("personnummer|personnr|samordningsnummer")),
    Kind("NO_FODSELSNUMMER", r"[0-9]{6} ?[0-9]{5}", "no.fodselsnummer",
         _words("fødselsnummer|fodselsnummer|personnummer")),
    Kind("DK_CPR", r"[0-3][0-9][01][0-9]{3}-?[0-9]{4}", "dk.cpr", _words("cpr|cpr-nr|personnummer")),
    Kind("PT_NIF", r"[1-9][0-9]{2} ?[0-9]{3} ?[0-9]{3}", "pt.nif", _words("nif|contribuinte")),
    Kind("BR_CPF", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}|[0-9]{11}", "br.cpf", _words("cpf|cadastro de pessoas")),
    Kind("AU_TFN", r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "au.tfn", _words("tfn|tax file")),
    Kind("AU_ABN", r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "au.abn", _words("abn|australian business")),
    Kind("AU_MEDICARE", r"[2-6][0-9]{3} ?[0-9]{5} ?[0-9]", "", _words("medicare")),
    Kind("CA_SIN", r"[1-9][0-9]{2}[ -]?[0-9]{3}[ -]?[0-9]{3}", "ca.sin",
         _words("sin|social insurance|assurance sociale")),
    Kind("KR_RRN", r"[0-9]{6}-?[1-8][0-9]{6}", "kr.rrn", _words("rrn|resident registration|주민등록번호")),
    Kind("ZA_ID", r"[0-9]{13}|[0-9]{6} [0-9]{4} [0-9]{3}", "za.idnr",
         _words("id number|identity number|rsa id|south african")),
    Kind("MX_CURP", r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", "mx.curp", _words("curp"), alone=True),
    Kind("ABA_ROUTING_NUMBER", r"[0-9]{9}|[0-9]{4}-[0-9]{4}-[0-9]", "us.rtn", _words("aba|routing|rtn|bank")),
)  # fmt: skip


@cache
def _compiled() -> tuple[tuple[Kind, re.Pattern[str], Callable[[str], bool]], ...]:
    """Raises ImportError when stdnum lacks a module that a row names."""
    return tuple(
        (kind, re.compile(rf"(?<![\w.\-/])(?:{kind.pattern})(?![\w/]|[.\-][0-9])"), _check(kind.module))
        for kind in KINDS
    )


def _check(module: str) -> Callable[[str], bool]:
    if not module:
        return bool
    valid: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return valid


@cache
def _by_word() -> tuple[AhoCorasick, list[list[int]]]:
    """One pass for all context words, and the rows that each of them speaks for."""
    words = sorted(frozenset[str]().union(*(kind.context for kind in KINDS)))
    return AhoCorasick(words), [[row for row, kind in enumerate(KINDS) if word in kind.context] for word in words]


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _inside_word(text: str, start: int, end: int) -> bool:
    return text[max(0, start - 1) : start].isalpha() or text[end : end + 1].isalpha()


def _rows(text: str) -> Iterator[tuple[int, int, int]]:
    """Rows that could find something, and where: around their words, or everywhere what needs none."""
    automaton, rows = _by_word()
    # A lone surrogate (JSON can escape one) has no UTF-8, which the automaton reads.
    lower = _SURROGATE.sub("?", text.lower())
    everywhere = len(lower) != len(text)
    spoken: defaultdict[int, list[int]] = defaultdict(list)
    for which, start, end in occurrences(automaton, lower):
        if not _inside_word(lower, start, end):
            for row in rows[which]:
                spoken[row].append(start)
    telling = _TELLING.search(text) is not None
    for row, kind in enumerate(KINDS):
        if (row in spoken and (kind.alone or everywhere)) or (kind.alone and telling):
            yield row, 0, len(text)
        elif row in spoken:
            for start, end in joined(sorted(spoken[row]), _BEFORE_CHARS, _AFTER_CHARS):
                yield row, start, end


def _find(text: str) -> Iterator[Finding]:
    for row, start, end in _rows(text):
        kind, pattern, valid = _compiled()[row]
        for match in pattern.finditer(text, start, end):
            supported = near(text, match.start(), match.end(), kind.context)
            if (supported or kind.alone) and len(set(match[0])) > 2 and valid(match[0].replace(" ", "")):
                score = SURE if supported else LIKELY
                yield Finding(kind.entity, match.start(), match.end(), score, "national_id")


_LONGEST_CHARS: Final = 32
"""More than the longest number, and the longest word beside it."""
_BEFORE_CHARS: Final = CONTEXT_AFTER_CHARS + _LONGEST_CHARS
_AFTER_CHARS: Final = CONTEXT_BEFORE_CHARS + 3 * _LONGEST_CHARS
_TELLING: Final = re.compile(r"[0-9]-?[A-Z]\b|756\.?[0-9]|[0-9]{6}[-+A-Y][0-9]{3}")


def _load() -> None:
    _compiled()


RECOGNIZER: Final = Recognizer(
    name="national_id",
    entities=frozenset(kind.entity for kind in KINDS),
    layer="checksum",
    find=_find,
    trigger=has_digit,
    load=_load,
)
