"""Alias tables of Postfix read as they are: the same answers as `postmap -q` gives for the same file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from filterd.accounts import aliasfile
from filterd.accounts.names import fold_local

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("postmap") is None, reason="postmap is not installed (Debian: postfix)"),
]
DOMAIN = "us.example"
EXPRESSIONS = r"""# comment
/^ann-(.*)@us\.example$/  $1@us.example
/^bob-(a|b)-(c*)@(.*)$/i   ${1}x${2}@$(3)
!/@us\.example$/  outside@us.example
/^UPPER@/  low@us.example
/^CASE@/i  case@us.example
if /^in-/
/^in-a@/ ina@us.example
if !/-b@/
/^in-c@/ inc@us.example
endif
/^in-/ inrest@us.example
endif
/^multi@/
   one@us.example,
   # comment inside
 two@us.example
|^pipe@| pipe@us.example
:^colon@: colon@us.example
/^sla\/sh@/ slash@us.example
/^dollar@/ a$$b@us.example
/^empty(x?)@/ q$1@us.example
/^two@/ a@us.example b@us.example,c@us.example
/^.{3,4}@/  short@us.example
/^tab@/	tabbed@us.example
/^a(b)?cd@/  l$1x@us.example
/^[[:digit:]]+@/ digits@us.example
/^(w)(w)@/ $2$1@us.example
if /^n/
  /^n1@/ n1@us.example
/^n2@/ n2@us.example
endif
/^o[^p]@/ @other.example
/^p@us/ P@Us.Example
/^last\.one@/ last@us.example
"""
PERL = r"""/^x(?:y|z)(\d+)@/ n$1@us.example
/^(?i)never@/ never@us.example
/^w\w+\.(\w+)@/ $1@us.example
/^e{2,}@/ many@us.example
/^dot.all@/s dotted@us.example
"""
FIXED = r"""us.example  anything
info@us.example ann,bob
Info2@US.example  Ann@us.example
list@us.example  ann
    bob, eve
# comment
  carl
bare  ann
dup@us.example ann
@us.example @two.example
tab@us.example	ann
trail@us.example ann, bob,
cr@us.example ann
"""
NAMES = (
    "ann-x ann- ann-A ANN-x bob-a-cc BOB-B- bob-c-x upper UPPER case CASE in-a in-b in-c in-zb in-b-b multi pipe colon "
    "sla/sh dollar emptyx empty two abc abcd acd ab tab 123 ww n1 n2 oq op p last.one none xy12 xz x1 Never never wab.cd w.cd e ee "
    "eeee dotXall info INFO info2 list bare dup trail cr "
)


def asked(kind: str, path: Path, keys: list[str]) -> dict[str, str]:
    """What Postfix says, by key."""
    done = subprocess.run(
        ["postmap", "-q", "-", f"{kind}:{path}"],
        input="\n".join(keys),
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = (line.partition("\t") for line in done.stdout.splitlines())
    return {key: " ".join(value.replace(",", " ").split()) for key, _, value in lines}


@pytest.mark.parametrize(
    ("kind", "text", "domains"),
    [
        ("regexp", EXPRESSIONS, (DOMAIN, "else.example")),
        ("pcre", EXPRESSIONS + PERL, (DOMAIN, "else.example")),
        ("texthash", FIXED, (DOMAIN,)),
    ],
)
def test_the_same_answers(tmp_path: Path, kind: str, text: str, domains: tuple[str, ...]) -> None:
    known = subprocess.run(["postconf", "-m"], capture_output=True, text=True, timeout=60, check=True).stdout
    if kind == "pcre" and kind not in known.split():  # the one kind that is a package of its own
        pytest.skip("Postfix' pcre tables are not installed (Debian: postfix-pcre)")
    path = tmp_path / "table"
    path.write_text(text)
    table = aliasfile.read(kind, text, str(path), DOMAIN)
    assert table.whole, table.faults
    keys = [f"{name}@{domain}" for name in NAMES.split() for domain in domains]
    theirs = asked(kind, path, keys)
    assert len(theirs) > 5
    differ = {}
    for key in keys:
        name, _, domain = key.partition("@")
        entry = table.find(fold_local(name), domain, name)
        ours = " ".join(entry.targets) if entry is not None else ""
        said = " ".join(one if "@" in one else f"{one}@{DOMAIN}" for one in theirs.get(key, "").split())
        if kind == "texthash" and table.names.get(fold_local(name)) and not said:
            continue  # a name alone: Postfix asks for it in a second look-up
        if ours != said:
            differ[key] = (ours, said)
    assert not differ
