"""App passwords: what is kept shows nothing, what was printed fits however it is typed."""

import pytest

from filterd.accounts.apppasswords import NAME_MAX, AppPassword, fits, make
from filterd.accounts.errors import BadAccount


def test_make_and_fit() -> None:
    one, password = make(" telephone ", 5.0)
    other, second = make("telephone", 5.0)
    assert one.name == "telephone" and one.created == 5.0 and password not in one.digest
    assert one.digest != other.digest and password != second
    for typed in (password, password.upper(), password.replace("-", ""), password.replace("-", " ")):
        assert fits((other, one), typed)
    assert not fits((one,), second) and not fits((one,), "") and not fits((), password)
    assert not fits((one,), password[:-1]) and not fits((one,), password + "x")


@pytest.mark.parametrize("digest", ["", ":", "zz:00", "00:"])
def test_what_was_not_made_by_us_fits_nothing(digest: str) -> None:
    assert not fits((AppPassword("x", digest),), "") and not fits((AppPassword("x", digest),), "x")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * (NAME_MAX + 1)])
def test_names(name: str) -> None:
    with pytest.raises(BadAccount):
        make(name, 0.0)
