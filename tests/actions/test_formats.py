"""Format-preserving encryption: what stays, what comes back, and the standard's own vectors."""

import pytest
from fpr_ff1 import FF1
from hypothesis import given
from hypothesis import strategies as st

from proxy.actions.formats import compact_of, country_code, crypt, laid_out, luhn_digit, mod97
from proxy.recognizers.base import luhn
from proxy.redaction import Replacer

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
digits = st.text("0123456789", min_size=6, max_size=30)


@pytest.mark.parametrize(
    ("key", "radix", "tweak", "plain", "cipher"),
    [
        # NIST's sample data for SP 800-38G, FF1 samples 1, 2, 3 and 7.
        ("2B7E151628AED2A6ABF7158809CF4F3C", 10, "", "0123456789", "2433477484"),
        ("2B7E151628AED2A6ABF7158809CF4F3C", 10, "39383736353433323130", "0123456789", "6124200773"),
        ("2B7E151628AED2A6ABF7158809CF4F3C", 36, "3737373770717273373737", "0123456789abcdefghi",
         "a9tv40mll9kdu509eum"),
        ("2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94", 10, "", "0123456789", "6657667009"),
    ],
)  # fmt: skip
def test_the_library_is_ff1(key: str, radix: int, tweak: str, plain: str, cipher: str) -> None:
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"[:radix]
    ff1 = FF1(key=bytes.fromhex(key), radix=radix, alphabet=alphabet, tweak=bytes.fromhex(tweak))
    assert ff1.encrypt(plain) == cipher


@given(digits)
def test_cards_stay_luhn_valid_and_come_back(body: str) -> None:
    card = body + luhn_digit(body)
    assert luhn(card)
    cipher = crypt(KEY, "CREDIT_CARD", card)
    assert cipher is not None
    assert luhn(cipher)
    assert len(cipher) == len(card)
    assert crypt(KEY, "CREDIT_CARD", cipher, back=True) == card
    assert crypt(KEY, "US_BANK_NUMBER", card) != cipher


@given(st.sampled_from(["DE", "GB", "NO", "MT"]), st.text("0123456789ABCDEFGH", min_size=11, max_size=30))
def test_ibans_keep_country_and_valid_check_digits(country: str, account: str) -> None:
    iban = f"{country}{98 - mod97(f'{country}00{account}'):02}{account}"
    cipher = crypt(KEY, "IBAN_CODE", iban)
    if cipher is None:
        return
    assert (cipher[:2], len(cipher), mod97(cipher)) == (country, len(iban), 1)
    assert cipher[4:].isdecimal() == account.isdecimal()
    assert crypt(KEY, "IBAN_CODE", cipher, back=True) == iban


@pytest.mark.parametrize(("number", "code"), [("+4930123456", "49"), ("+14155552671", "1"), ("+35812345678", "358")])
def test_phones_keep_their_country_code(number: str, code: str) -> None:
    cipher = crypt(KEY, "PHONE_NUMBER", number)
    assert cipher is not None
    assert cipher.startswith(f"+{code}")
    assert country_code(cipher[1:]) == code
    assert crypt(KEY, "PHONE_NUMBER", cipher, back=True) == number


@pytest.mark.parametrize(
    ("entity", "compact"),
    [
        ("CREDIT_CARD", "4111111111111112"),
        ("CREDIT_CARD", "59"),
        ("IBAN_CODE", "DE00370400440532013000"),
        ("US_BANK_NUMBER", "12345"),
        ("US_BANK_NUMBER", "1" * 57),
        ("US_BANK_NUMBER", "12345a"),
        ("PHONE_NUMBER", "+4912345"),
        ("PHONE_NUMBER", "+999123456789"),
        ("PHONE_NUMBER", "+"),
    ],
)
def test_what_has_no_form_or_is_too_short_for_the_cipher_is_not_encrypted(entity: str, compact: str) -> None:
    assert crypt(KEY, entity, compact) is None


@given(digits, st.sampled_from(["US_BANK_NUMBER", "US_SSN", "ACCOUNT"]))
def test_apps_differ_and_the_same_app_does_not(number: str, entity: str) -> None:
    cipher = crypt(KEY, entity, number)
    assert cipher is not None
    assert crypt(KEY, entity, number) == cipher
    assert crypt(KEY, entity, cipher, back=True) == number
    assert crypt(OTHER_KEY, entity, cipher, back=True) != number or len(number) < 9


@pytest.mark.parametrize(
    ("entity", "text", "form"),
    [
        ("CREDIT_CARD", "4111-1111-1111-1111", "dddd-dddd-dddd-dddd"),
        ("CREDIT_CARD", "4111 1111 1111 1111", "dddd dddd dddd dddd"),
        ("PHONE_NUMBER", "+49 (30) 1234567", "+49 (dd) ddddddd"),
        ("PHONE_NUMBER", "(415) 555-2671", "(ddd) ddd-dddd"),
        ("PHONE_NUMBER", "030/1234567", "ddd ddddddd"),
        ("IBAN_CODE", "DE89 3704 0044 0532 0130 00", "DEdd dddd dddd dddd dddd dd"),
    ],
)
def test_separators_stay(entity: str, text: str, form: str) -> None:
    out = Replacer(KEY).text("encrypt", entity, text, text)
    fixed = [index for index, char in enumerate(form) if char != "d"]
    assert len(out) == len(form)
    assert "".join(out[index] for index in fixed) == "".join(form[index] for index in fixed)
    assert all(out[index].isdigit() for index in range(len(form)) if index not in fixed)


@pytest.mark.parametrize("text", ["4111•1111", "4111\n1111 1111 1111", "call me", "", "+", "415-555-2671 x12"])
def test_what_is_more_than_a_number_is_not_compacted(text: str) -> None:
    assert compact_of("PHONE_NUMBER", text) in (None, "+")


def test_other_digits_are_read_for_what_they_say() -> None:
    replacer = Replacer(KEY)
    out = replacer.text("encrypt", "CREDIT_CARD", "4111111111111111", "4111111111111111")
    assert luhn(out)
    assert replacer.restore == {out: "4111111111111111"}
    assert laid_out("12-34", "5678") == "56-78"
