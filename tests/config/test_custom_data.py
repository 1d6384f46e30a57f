"""Dictionaries, patterns, exact matches and rules per tier in policy files: read, checked, carried by a revision."""

from pathlib import Path

import pytest

from proxy.config.compile import compile_snapshot, load_content
from proxy.config.diff import diff_contents
from proxy.config.snapshot import UNLISTED, DlpDictionary, DlpExactMatch, DlpPattern
from proxy.inspector.wire import policy_fields, policy_from
from tests.config.kit import ENTITIES, HEAD, PLATFORM, mistakes, write
from tests.customdata.kit import built

DATA = """dlp:
  dictionaries:
    - {entity: CODE_NAME, values: [Bluebird], file: words.txt}
    - {entity: CODE_NAME, values: [RED], case: sensitive, whole_words: false}
  patterns: [{entity: TICKET, regex: 'ACME-[0-9]{6}', context: [Ticket]}]
  exact_match:
    - {id: customers, entity: CUSTOMER_RECORD, index: customers.edm, match: {columns: 2, of: [name, email, iban]},
       at_least: 20}
  rules:
    - {entities: [CODE_NAME, TICKET], action: block}
    - {entities: [CUSTOMER_RECORD], action: redact}
"""


def directory(path: Path, text: str = DATA) -> Path:
    (path / "words.txt").write_text("# birds\nFalcon\n\n  Golden Eagle  \nBluebird\n")
    (path / "customers.edm").write_bytes(built()[0])
    return write(path, HEAD + text)


def test_all_of_it_is_compiled_and_survives_the_revision_and_the_wire(tmp_path: Path) -> None:
    content = load_content(directory(tmp_path), entities=ENTITIES)
    assert b"words.txt" not in content.canonical
    dlp = compile_snapshot(content.canonical, seq=1).apps["a"].dlp
    assert dlp.dictionaries == (
        DlpDictionary("CODE_NAME", ("Bluebird", "Falcon", "Golden Eagle"), at="apps/a.yaml:8:7"),
        DlpDictionary("CODE_NAME", ("RED",), True, False, at="apps/a.yaml:9:7"),
    )
    assert dlp.patterns == (DlpPattern("TICKET", "ACME-[0-9]{6}", frozenset({"ticket"}), "apps/a.yaml:10:14"),)
    of = frozenset({"name", "email", "iban"})
    wanted = DlpExactMatch("customers", "CUSTOMER_RECORD", built()[1], 2, of, 50, 20, "apps/a.yaml:12:7")
    assert dlp.exact_match == (wanted,)
    assert policy_from(policy_fields(dlp)) == dlp


ONE = "{id: c, entity: X1, index: customers.edm, match: {columns: 1}}"
WRONG = {
    "no words": ("dictionaries: [{entity: X1, values: []}]", "the list is empty"),
    "neither": ("dictionaries: [{entity: X1}]", "without words"),
    "short word": ("dictionaries: [{entity: X1, values: [a]}]", "found everywhere"),
    "no letters": ("dictionaries: [{entity: X1, values: ['--']}]", "found everywhere"),
    "no such file": ("dictionaries: [{entity: X1, file: none.txt}]", "cannot be read: no such file"),
    "outside": ("dictionaries: [{entity: X1, file: ../words.txt}]", "leaves the directory"),
    "lookbehind": ("patterns: [{entity: X1, regex: '(?<=a)b'}]", "cannot be searched for"),
    "unbalanced": ("patterns: [{entity: X1, regex: '('}]", "missing )"),
    "everything": ("patterns: [{entity: X1, regex: '.*'}]", "found everywhere"),
    "no index": ("exact_match: [{id: c, entity: X1, index: no.edm, match: {columns: 1}}]", "cannot be read"),
    "no index at all": ("exact_match: [{id: c, entity: X1, index: words.txt, match: {columns: 1}}]", "not an index"),
    "altered": ("exact_match: [{id: c, entity: X1, index: altered.edm, match: {columns: 1}}]", "altered"),
    "no column": ("exact_match: [{id: c, entity: X1, index: customers.edm, match: {columns: 1, of: [mail]}}]",
                  "no column 'mail'"),
    "too many columns": ("exact_match: [{id: c, entity: X1, index: customers.edm, match: {columns: 5}}]",
                         "there are 4"),
    "twice": (f"exact_match: [{ONE}, {ONE}]", "is taken"),
    "unknown entity": ("rules: [{entities: [CODE_NAME], action: block}]", "no recogniser finds"),
    "unknown tier": ("rules: [{entities: [PERSON], action: block, tiers: [trustd]}]", "no model of platform.yaml"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_told_at_their_line(tmp_path: Path, text: str, message: str) -> None:
    where = directory(tmp_path, f"dlp:\n  {text}\n")
    data = bytearray(built()[0])
    data[-1] ^= 1
    (where / "altered.edm").write_bytes(data)
    found = mistakes(where)
    assert [error.line for error in found] == [7]
    assert message in found[0].message
    assert found[0].fix


def test_a_catastrophic_expression_is_no_mistake(tmp_path: Path) -> None:
    assert mistakes(directory(tmp_path, "dlp: {patterns: [{entity: X1, regex: '(a+)+$'}]}\n")) == ()


def test_entities_of_the_platform_are_known_to_all_and_those_of_an_app_to_its_entries(tmp_path: Path) -> None:
    platform = PLATFORM + (
        "classes: {own: [CODE_NAME]}\ndefaults: {dlp: {dictionaries: [{entity: CODE_NAME, values: [Bluebird]}]}}\n"
    )
    app = HEAD + (
        "allow: [{id: x, host: a.com, dlp: {rules: [{entities: [TICKET, CODE_NAME], action: block}]}}]\n"
        "dlp: {patterns: [{entity: TICKET, regex: ab}], rules: [{classes: [own], action: block}]}\n"
    )
    where = write(tmp_path, app, platform=platform)
    assert mistakes(where) == ()
    snapshot = compile_snapshot(load_content(where, entities=ENTITIES).canonical, seq=1)
    entry = snapshot.apps["a"].entries[0].dlp
    assert [one.words for one in entry.dictionaries] == [("Bluebird",)]
    assert [one.regex for one in entry.patterns] == ["ab"]


TIERS = PLATFORM + "models: {good-1: {provider: p, tier: trusted}, bad-1: {provider: p, tier: public}}\n"


def test_rules_per_tier(tmp_path: Path) -> None:
    app = HEAD + (
        "dlp: {rules: [{entities: [PERSON], action: tokenize, tiers: [trusted]}, "
        "{entities: [PERSON], action: block, tiers: [unlisted]}]}\n"
    )
    snapshot = compile_snapshot(load_content(write(tmp_path, app, platform=TIERS), entities=ENTITIES).canonical, seq=1)
    platform, rules = snapshot.platform, snapshot.apps["a"].dlp.rules
    tiers = [platform.tier_of(model) for model in ("good-1", "bad-1", "other", None)]
    assert tiers == ["trusted", "public", UNLISTED, UNLISTED]
    assert [[rule.action for rule in rules if rule.applies(tier)] for tier in tiers] == [
        ["tokenize"], [], ["block"], ["block"],
    ]  # fmt: skip


def test_a_rule_of_one_tier_leaves_the_apps_rules_in_force_elsewhere(tmp_path: Path) -> None:
    app = HEAD + (
        "allow: [{id: x, host: a.com, dlp: {rules: [{entities: [PERSON], action: tokenize, tiers: [trusted]}]}}]\n"
        "dlp: {rules: [{entities: [PERSON], action: block}], otherwise: redact}\n"
    )
    snapshot = compile_snapshot(load_content(write(tmp_path, app, platform=TIERS), entities=ENTITIES).canonical, seq=1)
    rules = snapshot.apps["a"].entries[0].dlp.rules
    assert sorted(rule.action for rule in rules if rule.applies("public")) == ["block"]
    assert sorted(rule.action for rule in rules if rule.applies("trusted")) == ["block", "tokenize"]


@pytest.mark.parametrize(
    ("line", "widens"),
    [
        ("    - {entity: CODE_NAME, values: [RED], case: sensitive, whole_words: false}\n", True),
        ("  patterns: [{entity: TICKET, regex: 'ACME-[0-9]{6}', context: [Ticket]}]\n", True),
    ],
)
def test_looking_for_less_widens_and_for_more_does_not(tmp_path: Path, line: str, widens: bool) -> None:
    rules = DATA.replace("[CODE_NAME, TICKET]", "[CODE_NAME]")
    (tmp_path / "more").mkdir()
    (tmp_path / "less").mkdir()
    more = load_content(directory(tmp_path / "more", rules), entities=ENTITIES).canonical
    less = load_content(directory(tmp_path / "less", rules.replace(line, "")), entities=ENTITIES).canonical
    assert [change.widens for change in diff_contents(more, less)] == [widens]
    assert [change.widens for change in diff_contents(less, more)] == [False]
