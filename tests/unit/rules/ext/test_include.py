"""RFC 6609."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rules.actions import FileInto, RunResult
from rules.simplehost import SimpleHost

Go = Callable[..., RunResult]


def host(**scripts: str) -> SimpleHost:
    out = SimpleHost()
    for name, text in scripts.items():
        location, _, rest = name.partition("_")
        out.scripts[("global" if location == "g" else "personal", rest)] = text
    return out


def boxes(result: RunResult) -> list[str]:
    assert result.error is None, result.error
    return [action.mailbox for action in result.actions if isinstance(action, FileInto)]


HEAD = 'require ["include", "fileinto", "variables"]; '


def test_include_and_return(go: Go) -> None:
    inner = 'require ["include", "fileinto"]; fileinto "in"; return; fileinto "never";'
    assert boxes(go(HEAD + 'include "a"; fileinto "out";', b"", host(p_a=inner))) == ["in", "out"]
    assert boxes(go(HEAD + 'include :global "a"; fileinto "out";', b"", host(g_a=inner))) == ["in", "out"]
    stop = 'require "fileinto"; fileinto "in"; stop;'
    assert boxes(go(HEAD + 'include "a"; fileinto "out";', b"", host(p_a=stop))) == ["in"]
    assert boxes(go(HEAD + 'fileinto "a"; return; fileinto "b";')) == ["a"]


def test_require_is_not_inherited(go: Go) -> None:
    result = go(HEAD + 'include "a";', b"", host(p_a='fileinto "x";'))
    assert (
        result.error is not None and "missing" not in result.error and "needs the capability" in result.error
    )


def test_missing_and_optional(go: Go) -> None:
    assert go(HEAD + 'include "a";').error is not None
    assert go(HEAD + 'include :optional "a";').error is None
    assert go(HEAD + 'include :optional "a";', b"", host(p_a="foo;")).error is not None


def test_once_and_recursion(go: Go) -> None:
    scripts = host(p_a='require "fileinto"; fileinto "x"; ', p_r='require "include"; include "r";')
    assert boxes(go(HEAD + 'include :once "a"; include :once "a";', b"", scripts)) == ["x"]
    assert "includes itself" in (go(HEAD + 'include "r";', b"", scripts).error or "")
    scripts = host(p_r='require "include"; include :once "r";')
    assert go(HEAD + 'include "r";', b"", scripts).error is None


def test_depth(go: Go) -> None:
    scripts = host(**{f"p_s{number}": f'require "include"; include "s{number + 1}";' for number in range(12)})
    assert "nested" in (go(HEAD + 'include "s0";', b"", scripts).error or "")


def test_variables_are_private_but_for_globals(go: Go) -> None:
    inner = (
        'require ["include", "variables", "fileinto"]; global "g"; fileinto "in.${a}.${g}"; set "a" "2"; set "g" "3"; '
        'set "global.h" "4";'
    )
    outer = (
        HEAD
        + 'global ["g", "h"]; set "a" "1"; set "g" "0"; include "i"; fileinto "out.${a}.${g}.${h}.${global.g}";'
    )
    assert boxes(go(outer, b"", host(p_i=inner))) == ["in..0", "out.1.3.4.3"]


@pytest.mark.parametrize("name", ["a/b", "", ".."])
def test_names(name: str) -> None:
    from rules.ext.include import script_name_fault

    assert script_name_fault(name) is not None


def test_the_place_of_an_error_is_inside(go: Go) -> None:
    result = go(HEAD + '\ninclude "a";', b"", host(p_a='require "ihave";\n\nerror "x";'))
    assert result.error == "x" and result.error_place is not None
    assert (result.error_place.script, result.error_place.line) == ("a", 3)


def test_edits_are_shared(go: Go) -> None:
    inner = 'require "editheader"; addheader "X" "y";'
    text = 'require ["include", "fileinto"]; include "i"; if exists "x" { fileinto "yes"; }'
    assert boxes(go(text, b"A: b\r\n\r\n", host(p_i=inner))) == ["yes"]
