"""SRS: the way there, the way back, and everything that must not come back."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.srs import DAY, NotSrs, Original, Rewritten, Srs, Unchanged, Unusable


class Clock:
    def __init__(self, days: float = 20000.0) -> None:
        self.days = days

    def time(self) -> float:
        return self.days * DAY

    def monotonic(self) -> float:
        return self.days * DAY


CLOCK = Clock()


def srs(clock: Clock = CLOCK, secrets: tuple[bytes, ...] = (b"tops3cret",), **more: object) -> Srs:
    return Srs("fwd.example", secrets, clock, ("own.example",), **more)  # type: ignore[arg-type]  # free options


def forward(address: str, one: Srs | None = None) -> str:
    result = (one or srs()).forward(address)
    assert isinstance(result, Rewritten), result
    return result.address


def test_there_and_back() -> None:
    address = forward("Ann.Lee+x=y@Example.NET")
    assert address.startswith("SRS0=") and address.endswith("=Example.NET=Ann.Lee+x=y@fwd.example")
    assert srs().reverse(address) == Original("Ann.Lee+x=y@Example.NET")


def test_a_forwarded_forward_becomes_srs1_and_a_further_one_stays_that_long() -> None:
    first = forward("ann@example.net", Srs("one.example", [b"1"], CLOCK))
    second = forward(first, Srs("two.example", [b"2"], CLOCK))
    assert second.startswith("SRS1=") and "=one.example==" in second
    third = forward(second, Srs("three.example", [b"3"], CLOCK))
    assert "=one.example==" in third and "two.example" not in third
    assert Srs("three.example", [b"3"], CLOCK).reverse(third) == Original(first)
    assert Srs("two.example", [b"2"], CLOCK).reverse(second) == Original(first)


@pytest.mark.parametrize("separator", ["=", "+", "-"])
def test_separators(separator: str) -> None:
    address = forward("ann@example.net", srs(separator=separator))
    assert address.startswith(f"SRS0{separator}")
    assert srs().reverse(address) == Original("ann@example.net")
    again = forward(address.replace("@fwd.example", "@one.example"), srs(separator=separator))
    assert again.startswith(f"SRS1{separator}") and f"=one.example={separator}" in again
    assert srs().reverse(again) == Original(address.replace("@fwd.example", "@one.example"))


def test_null_and_own_paths_stay() -> None:
    assert srs().forward("") == Unchanged("")
    assert srs().forward("ann@OWN.example") == Unchanged("ann@OWN.example")
    assert srs().forward("ann@fwd.example") == Unchanged("ann@fwd.example")


@pytest.mark.parametrize("address", ["ann", "@example.net", "ann@"])
def test_what_is_no_address_is_not_rewritten(address: str) -> None:
    assert srs().forward(address) == Unusable("malformed")


def test_rotation_the_first_signs_all_verify() -> None:
    old, new = srs(secrets=(b"old",)), srs(secrets=(b"new", b"old"))
    address = forward("ann@example.net", old)
    assert new.reverse(address) == Original("ann@example.net")
    assert old.reverse(forward("ann@example.net", new)) == Unusable("wrong hash")
    assert srs(secrets=(b"other",)).reverse(address) == Unusable("wrong hash")


def test_age() -> None:
    clock = Clock(20000.5)
    address = forward("ann@example.net", srs(clock))
    clock.days += 21
    assert srs(clock).reverse(address) == Original("ann@example.net")
    clock.days += 1
    assert srs(clock).reverse(address) == Unusable("expired")
    clock.days = 19999.0  # made tomorrow
    assert srs(clock).reverse(address) == Unusable("expired")


def test_the_days_go_round() -> None:
    clock = Clock(1023.9)
    address = forward("ann@example.net", srs(clock))
    clock.days = 1024.1
    assert srs(clock).reverse(address) == Original("ann@example.net")


def test_an_mta_on_the_way_smashed_the_case() -> None:
    address = forward("ann@example.net")
    assert srs().reverse(address.lower()) == Original("ann@example.net")
    assert srs().reverse(address.upper()) == Original("ANN@EXAMPLE.NET")
    again = forward(address.replace("fwd", "one"))
    assert isinstance(srs().reverse(again.lower()), Original)


@pytest.mark.parametrize("at", range(60))
def test_every_changed_octet_is_noticed(at: int) -> None:
    address = forward("somebody@sender.example.net")
    local = address.rpartition("@")[0]
    if at < len("SRS0=") or at >= len(local):
        return
    other = "x" if local[at] not in "xX" else "y"
    result = srs().reverse(f"{local[:at]}{other}{local[at + 1 :]}@fwd.example")
    assert isinstance(result, Unusable)


@pytest.mark.parametrize(
    "local",
    [
        "SRS0", "SRS0=", "SRS0=a", "SRS0=aaaa=bb", "SRS0=aaaa=bb=c", "SRS0====", "SRS0=aaaa=bb=c=",
        "SRS1=", "SRS1=aaaa", "SRS1=aaaa=host", "SRS1=aaaa=host=", "SRS1=aaaa=host=x", "SRS1====",
        "SRS0=" + "=" * 500, "SRS0=" + "a" * 100000, "SRS0=éééé=éé=é=é", "SRS0=\0\0\0\0=bb=c=d",
    ],
)  # fmt: skip
def test_malformed(local: str) -> None:
    result = srs().reverse(f"{local}@fwd.example")
    assert isinstance(result, Unusable | NotSrs)


@pytest.mark.parametrize("hash_text", ["", "a", "aaa", "a" * 28])
def test_too_short_or_too_long_a_hash_is_no_hash(hash_text: str) -> None:
    whole = forward("ann@example.net", srs(hash_length=27)).split("=")[1]
    rest = forward("ann@example.net").split("=", 2)[2]
    for given_hash in (hash_text, whole[:3]):
        assert srs().reverse(f"SRS0={given_hash}={rest}") in (Unusable("wrong hash"), Unusable("malformed"))
    for length in (4, 10, 27):
        assert isinstance(srs().reverse(f"SRS0={whole[:length]}={rest}"), Original)


def test_ordinary_addresses() -> None:
    for address in (
        "ann@fwd.example",
        "srs@fwd.example",
        "SRS@fwd.example",
        "SRS0x=1@fwd.example",
        "ann",
        "",
    ):
        assert srs().reverse(address) == NotSrs()


def test_lengths() -> None:
    assert isinstance(srs().forward("a" * 64 + "@example.net"), Rewritten)  # 5321 4.5.3.1.1 is a SHOULD
    assert srs(max_local=64).forward("a" * 64 + "@example.net") == Unusable("too long")
    assert srs().forward("a" * 64 + "@" + "b." * 90 + "net") == Unusable("too long")


def test_quoted_local_parts() -> None:
    address = forward('"ann lee"@example.net')
    assert address.startswith('"SRS0=') and address.endswith('=ann lee"@fwd.example')
    assert srs().reverse(address) == Original('"ann lee"@example.net')


def test_settings_that_make_no_sense() -> None:
    for bad in (
        {"secrets": ()},
        {"secrets": (b"",)},
        {"separator": "*"},
        {"hash_length": 3},
        {"valid_days": 1024},
    ):
        with pytest.raises(ValueError, match="SRS"):
            srs(**bad)  # type: ignore[arg-type]  # free options


locals_ = st.text(string.ascii_letters + string.digits + '=+-._ "\\@é', min_size=1, max_size=40)
hosts = st.from_regex(r"[A-Za-z0-9]{1,20}(\.[A-Za-z]{2,10}){1,3}", fullmatch=True)


@settings(deadline=None)
@given(local=locals_, host=hosts, length=st.integers(4, 27), separator=st.sampled_from("=+-"))
def test_any_address_finds_its_way_back(local: str, host: str, length: int, separator: str) -> None:
    from rules.mail.address import quote_local

    address = f"{quote_local(local)}@{host}"
    one = srs(hash_length=length, separator=separator)
    result = one.forward(address)
    assert isinstance(result, Rewritten)
    assert one.reverse(result.address) == Original(address)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_nothing_made_up_comes_back(text: str) -> None:
    for prefix in ("SRS0=", "SRS1=", "srs0+", "SRS1-", ""):
        assert isinstance(srs().reverse(prefix + text + "@fwd.example"), Unusable | NotSrs)
