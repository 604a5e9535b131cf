"""Phone numbers in one form (E.164), and those that were withheld.

The stored text stays as HighLevel sent it. E.164 is only used to compare numbers.
"""

from typing import Final

import phonenumbers

REGION: Final = "US"
"""The country of numbers without a country code: HighLevel's own."""

PLAIN: Final = "^[+][1-9][0-9]{7,14}$"
"""Matches numbers in E.164, as nearly all are; PostgreSQL compares those as they are."""

WITHHELD_NUMBERS: Final = (
    "+266696687",  # ANONYMOUS, typed on a phone's keypad; carriers send such numbers
    "+7378742833",  # RESTRICTED
    "+2562533",  # BLOCKED
    "+8656696",  # UNKNOWN
    "+86282452253",  # UNAVAILABLE
    "+464",  # INFO
)

_WITHHELD_WORDS: Final = frozenset(
    {"anonymous", "unknown", "restricted", "private", "blocked", "withheld", "unavailable",
     "hidden", "noname", "nocallerid", "callerunknown", "privatenumber", "unknowncaller",
     "anonymouscaller", "numberwithheld", "unknownnumber", "notavailable"}
)  # fmt: skip


def number_of(text: str) -> str | None:
    """A phone number in E.164; None if the caller withheld it.

    Text that is not a phone number, such as a SIP address, is returned as it is.
    """
    letters = "".join(letter for letter in text.lower() if letter.isalpha())
    if letters in _WITHHELD_WORDS or not any(map(str.isalnum, text.replace("0", ""))):
        return None
    try:
        parsed = phonenumbers.parse(text, REGION)
    except phonenumbers.NumberParseException:
        return text
    number: str = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    if number in WITHHELD_NUMBERS or f"+{text.lstrip('+')}" in WITHHELD_NUMBERS:
        return None
    return number if phonenumbers.is_possible_number(parsed) else text
