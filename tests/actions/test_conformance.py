"""What every action keeps, whatever it does: found by listing, keyed per app, consistent, only the span changes."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.actions import actions, modules
from proxy.actions.base import PLAIN_TEXT, Value, subkey
from proxy.config.checks_dlp import _RESPONSE_ACTIONS
from proxy.model import DLP_ACTIONS, DlpAction
from proxy.placeholders import PLACEHOLDER_RE
from proxy.redaction import Replacer
from proxy.restore import Placeholders
from tests.inspection.kit import MAIL, policy, run

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
REPLACING = sorted(name for name, action in actions().items() if action.replace)
RESTORING = ["encrypt", "synthesize", "tokenize"]
EXAMPLES = {
    "CREDIT_CARD": "4111 1111 1111 1111",
    "IBAN_CODE": "DE89 3704 0044 0532 0130 00",
    "PHONE_NUMBER": "+49 30 123456-78",
    "EMAIL_ADDRESS": "jane.roe@corp.example",
    "PERSON": "Jürgen Müller",
    "US_BANK_NUMBER": "123456789012",
    "CODE_NAME": "Project Bluebird",
}


def test_every_action_of_the_contract_is_one_module_named_like_it() -> None:
    assert sorted(modules()) == sorted(actions()) == sorted(get_args(DlpAction.__value__)) == sorted(DLP_ACTIONS)


def test_what_may_stand_in_an_answer_restores_nothing() -> None:
    assert not set(_RESPONSE_ACTIONS) & set(RESTORING)


@pytest.mark.parametrize("entity", EXAMPLES)
@pytest.mark.parametrize("name", REPLACING)
def test_stand_ins(name: DlpAction, entity: str) -> None:
    value = EXAMPLES[entity]
    replacer = Replacer(KEY)
    text = replacer.text(name, entity, value, value)
    assert value not in text
    assert replacer.text(name, entity, value, value) == text
    assert Replacer(KEY).text(name, entity, value, value) == text
    if name in RESTORING:
        assert Placeholders(replacer.restore).replace(f"say {text}!".encode(), 0).decode() == f"say {value}!"
        assert Replacer(OTHER_KEY).text(name, entity, value, value) != text
        bare = text.removeprefix("+")
        assert PLACEHOLDER_RE.fullmatch(text) or PLAIN_TEXT.fullmatch(bare)
        assert json.dumps(bare) == f'"{bare}"'
    else:
        assert replacer.restore == {}


@pytest.mark.parametrize("name", REPLACING)
@given(value=st.text(min_size=1, max_size=40), entity=st.sampled_from(sorted(EXAMPLES)))
def test_any_value_is_treated_by_any_action(name: DlpAction, value: str, entity: str) -> None:
    replacer = Replacer(KEY)
    text = replacer.text(name, entity, value, value)
    text.encode()
    assert bool(replacer.restore) == (name in RESTORING)
    if value.startswith("+") and text.startswith("+"):
        assert list(replacer.restore.values()) in ([value[1:]], [])
    elif replacer.restore:
        assert replacer.restore == {text: value}


@pytest.mark.parametrize("name", REPLACING)
def test_only_the_found_span_changes_and_encoded_runs_are_never_half_treated(name: DlpAction) -> None:
    verdict = run(json.dumps({"a": f"before {MAIL} after", "b": "é"}).encode(), dlp=policy(otherwise=name))
    assert verdict.body is not None
    before, after = verdict.body.split(b"before ")[0], verdict.body.split(b" after")[1]
    assert (before, after) == (b'{"a": "', b'", "b": "\\u00e9"}')
    assert MAIL.encode() not in verdict.body


def test_keys_of_two_purposes_and_two_apps_differ() -> None:
    assert len({subkey(KEY, "hash"), subkey(KEY, "encrypt"), subkey(OTHER_KEY, "hash"), KEY}) == 4


def test_a_hash_tells_equal_from_different_and_nothing_else() -> None:
    def hashed(key: bytes, entity: str, value: str) -> str:
        return Replacer(key).text("hash", entity, value, value)

    assert hashed(KEY, "EMAIL_ADDRESS", "A@x.com") == hashed(KEY, "EMAIL_ADDRESS", "a@x.com")
    texts = {hashed(KEY, "EMAIL_ADDRESS", "a@x.com"), hashed(OTHER_KEY, "EMAIL_ADDRESS", "a@x.com"),
             hashed(KEY, "EMAIL_ADDRESS", "b@x.com"), hashed(KEY, "PERSON", "a@x.com")}  # fmt: skip
    assert len(texts) == 4
    assert PLACEHOLDER_RE.search("".join(texts)) is None


def test_a_value_without_a_form_is_tokenized() -> None:
    for name in ("encrypt", "synthesize"):
        value = Value(KEY, "CODE_NAME", "Project Bluebird", "Project Bluebird")
        replace = actions()[name].replace
        assert replace is not None
        assert replace(value) is None
        assert PLACEHOLDER_RE.fullmatch(Replacer(KEY).text(name, *value[1:]))  # type: ignore[arg-type]
