import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlptl.data.masking import MOST_SIGNS, find_private, mask_text, show_text

CASES = [
    # e-mail addresses
    ("mail john.doe+x@example.co.uk, now", "mail <email>, now"),
    ("'o'neil@x.ie' said", "'<email>' said"),
    ("<a@b.de>", "<<email>>"),
    ("root@localhost", "<email>"),
    ("john (at) example (dot) com please", "<email> please"),
    ("john[at]example.com", "<email>"),
    ("john.doe＠example.com", "<email>"),
    ("müller@straße.de", "<email>"),
    ("иван@пример.рф", "<email>"),
    ('"john doe"@x.com', '"<email>'),
    ("bob@[192.168.2.1]", "<email>"),
    ("[bob@x.com]", "[<email>]"),
    ("mailto:jane@x.org", "mailto:<email>"),
    ("jane_doe@x.com's", "<email>'s"),
    ("john@example.com.Then", "<email>"),
    ("john.co@x.com", "<email>"),
    ("a@x.com,b@y.com;c@z.com", "<email>,<email>;<email>"),
    ("a@b@c.de", "<email>@c.de"),
    # links
    ("see https://x.org/a?b=c@d.de#e).", "see <link>)."),
    ("(http://x.y)", "(<link>)"),
    ("HTTP://X.Y/Z", "<link>"),
    ("www.foo.com", "<link>"),
    ("foo.co.uk/path?x=1, yes", "<link>, yes"),
    ("Amazon.com is", "<link> is"),
    ("bit.ly/abc", "<link>"),
    ("t.me/secret", "<link>"),
    ("postgres://user:pass@host/db", "<link>"),
    ("foo.com:john@x.com", "<link>:<email>"),
    # numbers
    ("call +49 (0)30 1234-567 now", "call +<number> now"),
    ("(202) 555 0101", "(<number>"),
    ("tel:+1-202-555-0101", "tel:+<number>"),
    ("4111 1111 1111 1111", "<number>"),
    ("4111-1111-1111-1111", "<number>"),
    ("GB29 NWBK 6016 1331 9268 19 and", "<number> and"),
    ("NL91ABNA0417164300", "<number>"),
    ("DE89370400440532013000.", "<number>."),
    ("SSN 078-05-1120", "SSN <number>"),
    ("192.168.0.1:80", "<number>"),
    ("2024-01-05 at 12:30", "<number> at <number>"),
    ("3.14 and 1,234.56 $5 10%", "<number> and <number> $<number>%"),
    ("covid19 in 3 of 5, B2B", "<number> in <number> of <number>"),
    ("AB12CD34 user_123", "<number>"),
    ("我的电话是13812345678谢谢", "我的电话是<number>谢谢"),
    ("٠١٢٣٤", "<number>"),
    ("½ cup", "<number> cup"),
    ("\uff11\uff12", "<number>"),
    # what stays
    ("hi @john", "hi @john"),
    ("him.He said", "him.He said"),
    ("e.g. this/that U.S. end...", "e.g. this/that U.S. end..."),
    ("...@foo", "...@foo"),
    ("http and www", "http and www"),
    ("a: b; c - d (e)", "a: b; c - d (e)"),
    ("", ""),
]

HOSTILE = ["a", "a.", "a@", "http://", "1 ", "a.b/", "@", "a1 ", "www.", "(", "a (at) ", "-", "x.com/", '"', '"a']
HOSTILE += ["GB29 ABCD ", "://", "foo.com ", "a-", ".", "1.", "a@b.", " ", "\u0661", "at)", "x@y "]


@pytest.mark.parametrize(("text", "masked"), CASES)
def test_what_is_masked(text, masked):
    assert mask_text(text) == masked


@given(
    st.lists(
        st.sampled_from(
            ["a", ".", "@", "1", " ", "/", "www.", "http://", "com", '"', ":", "(at)", "GB29 ABCD", "é", "-"]
        )
    )
)
def test_no_digit_is_left_and_no_two_parts_overlap(pieces):
    text = "".join(pieces)
    parts = find_private(text)
    assert all(one.end <= other.start for one, other in zip(parts, parts[1:], strict=False))
    assert all(part.start < part.end for part in parts)
    assert not any(map(str.isdigit, mask_text(text)))


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_more_than_linear_time(piece):
    text = piece * (300_000 // len(piece))  # in quadratic time it would take many minutes
    assert not any(map(str.isdigit, mask_text(text)))


def test_what_a_file_may_hold():
    text = "mail a@b.de " + "x" * 2000
    assert show_text("short a@b.de", "whole") == "short a@b.de"
    assert show_text("short a@b.de", "masked") == "short <email>"
    assert show_text(text, "none") is None
    shown = show_text(text, "masked")
    assert shown.startswith("mail <email> xx")
    assert shown.endswith("x\u2026")
    assert len(shown) == MOST_SIGNS


def test_an_address_at_the_end_of_what_is_shown_is_masked_before_the_cut():
    shown = show_text("x " * (MOST_SIGNS // 2 - 3) + "someone@example.com", "masked")
    assert "some" not in shown
