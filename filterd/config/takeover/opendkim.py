"""OpenDKIM (opendkim.conf(5)), OpenDMARC (opendmarc.conf(5)) and postsrsd (its /etc/default file, or postsrsd.conf of 2.x).

The first two are lines of a name and a value; names do not tell upper from lower case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from filterd.config.takeover.draft import Draft, Line, socket_text

_HOUSE = (
    "syslog", "syslogsuccess", "syslogfacility", "syslogname", "logwhy", "logresults", "userid", "umask", "pidfile",
    "background", "autorestart", "autorestartrate", "autorestartcount", "basedirectory", "changerootdirectory",
    "temporarydirectory", "keeptemporaryfiles", "maximumheaders", "multiplesignatures", "softwareheader", "softstart",
    "enablecoredumps", "dolog", "historyfile", "publicsuffixlist", "milterdebug", "querycache", "diagnosticdirectory",
    "requiresafekeys", "allowsha1only", "statistics", "statisticsname", "capturelog",
)  # fmt: skip
_SAME = {
    "alwaysaddarheader": "Authentication-Results is always added",
    "addallsignatureresults": "each signature's result is told",
    "removearall": "forged results under our name are removed",
    "removearfrom": "forged results under our name are removed",
    "oversignheaders": "From and its fellows are signed once more than they are there",
    "trustanchorfile": "the resolver's answer tells about DNSSEC (dns.trust_ad)",
    "unboundconfigfile": "the resolver's answer tells about DNSSEC (dns.trust_ad)",
    "sendreports": "no reports about single signatures are sent",
    "authservidwithjobid": "the trace id stands in X-Filterd-Trace",
    "fixcrlf": "line ends are those of SMTP",
    "softwarename": "nothing tells our version",
    "requiredheaders": "mail with several From fields: stage.dmarc.malformed_from",
}
_DMARC_SAME = {
    "spfselfvalidate": "SPF is checked here",
    "spfignoreresults": "SPF is checked here",
    "failurereports": "failure reports tell of people's mail and are not sent",
    "ignoreauthenticatedclients": "what our people send is not judged by DMARC",
    "ignorehosts": "what our people send is not judged by DMARC",
}


def _lines(text: str, path: str) -> Iterator[tuple[Line, str, str]]:
    for number, raw in enumerate(text.split("\n"), 1):
        bare = raw.split(" #", 1)[0].split("\t#", 1)[0].strip()
        if bare and not bare.startswith("#"):
            name, _, value = bare.replace("\t", " ").partition(" ")
            yield Line(path, number, f"{name} {value.strip()}".strip()), name.lower(), value.strip()


def read_opendkim(draft: Draft, path: str, text: str) -> None:
    found: dict[str, tuple[Line, str]] = {}
    for line, name, value in _lines(text, path):
        if name in found:
            draft.same(found[name][0], f"{line.place} says it again, and the last one counts")
        found[name] = (line, value)
    mode = found["mode"][1].lower() if "mode" in found else "sv"
    for name, (line, value) in found.items():
        if name in _HOUSE:
            draft.same(line, "a matter of OpenDKIM's own house")
        elif name in _SAME:
            draft.same(line, _SAME[name])
        elif name == "mode":
            if "v" not in mode:
                draft.set(
                    line,
                    "stage.dkim.enabled",
                    False,
                    "OpenDKIM only signed; without this, mail is verified as well",
                )
            else:
                draft.same(line, "mail is verified, and signed where there is a key")
        elif name in ("keytable", "signingtable"):
            _table(draft, line, "dkim.key_table" if name == "keytable" else "dkim.signing_table", value)
        elif name in ("domain", "selector", "keyfile", "signaturealgorithm"):
            continue  # together, below
        elif name == "socket":
            _socket(draft, line, value)
        elif name == "minimumkeybits" and value.isdecimal():
            draft.set(line, "stage.dkim.min_rsa_bits", int(value))
        elif name == "authservid":
            _authserv(draft, line, value)
        elif name == "dnstimeout" and value.isdecimal():
            draft.set(line, "stage.dkim.timeout", f"{value}s")
        elif name == "nameservers":
            draft.add(line, "dns.resolver", [_server(part) for part in re.split(r"[\s,]+", value)])
        elif name in ("internalhosts", "externalignorelist", "peerlist"):
            _hosts(draft, line, name, value)
        elif name == "canonicalization":
            _canonical(draft, line, value)
        else:
            draft.left(line, "filterd has nothing that is set like this")
    _one_key(draft, found)


def _table(draft: Draft, line: Line, key: str, value: str) -> None:
    kind, colon, path = value.partition(":")
    if not colon:
        kind, path = "file", value
    if kind not in ("file", "refile") or not path.startswith("/"):
        draft.left(line, f"{value}: a file of lines is read (file:PATH, refile:PATH)")
        return
    draft.set(line, key, value if colon else path)


def _socket(draft: Draft, line: Line, value: str) -> None:
    socket = socket_text(
        f"inet:{value.partition(':')[2]}@127.0.0.1" if re.fullmatch(r"inet:\d+", value) else value
    )
    if "postfix" in draft.names:
        draft.same(line, "filterd is the server itself: nobody has to ask it")
    elif socket is None:
        draft.left(line, f"{value} is no place to listen at")
    else:
        draft.add(
            line,
            "listen.milter",
            [socket],
            "for the mail server that asked OpenDKIM; drop it where filterd takes the mail",
        )


def _authserv(draft: Draft, line: Line, value: str) -> None:
    if value.upper() == "HOSTNAME":
        draft.same(line, "server.hostname is taken")
    else:
        draft.set(line, "pipeline.authserv_id", value)


def _server(text: str) -> str:
    return f"[{text}]:53" if text.count(":") > 1 else text if ":" in text else f"{text}:53"


def _hosts(draft: Draft, line: Line, name: str, value: str) -> None:
    if name != "internalhosts":
        draft.left(line, "whose mail is verified is what does not come from our own people")
        return
    path = value.partition(":")[2] if value.startswith(("file:", "refile:")) else value
    if path.startswith("/"):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                parts = [row.split("#")[0].strip() for row in stream]
        except OSError as error:
            draft.left(line, f"{path} cannot be read: {error.strerror}")
            return
    else:
        parts = re.split(r"[\s,]+", value.removeprefix("csl:"))
    networks: list[object] = [part for part in parts if re.fullmatch(r"[0-9a-fA-F:.]+(/\d+)?", part)]
    strange = [part for part in parts if part and part not in networks and part != "localhost"]
    if strange:
        draft.left(line, f"{', '.join(strange)}: clients are named by their addresses (milter.internal)")
    if networks:
        draft.add(
            line, "milter.internal", networks, "for listen.milter; who logs in is known to filterd itself"
        )
    elif not strange:
        draft.same(line, "nobody but this machine")


def _canonical(draft: Draft, line: Line, value: str) -> None:
    if value.lower().startswith("relaxed"):
        draft.same(line, "signed relaxed/relaxed")
    else:
        draft.left(line, f"{value}: signatures are made relaxed/relaxed, which survives more servers")


def _one_key(draft: Draft, found: dict[str, tuple[Line, str]]) -> None:
    """Domain, Selector and KeyFile: one key for some domains."""
    parts = {name: found[name] for name in ("domain", "selector", "keyfile") if name in found}
    algorithm = found.get("signaturealgorithm")
    if not parts and algorithm is None:
        return
    if "keytable" in found or len(parts) < 3:
        why = (
            "KeyTable says more"
            if "keytable" in found
            else "a key is a domain, a selector and a file together"
        )
        for name in ("domain", "selector", "keyfile", "signaturealgorithm"):
            if name in found:
                (draft.same if "keytable" in found else draft.left)(found[name][0], why)
        return
    value: dict[str, object] = {"selector": parts["selector"][1], "key": parts["keyfile"][1]}
    if algorithm is not None and algorithm[1].lower() != "rsa-sha256":
        value["algorithm"] = algorithm[1].lower()
    for name in re.split(r"[\s,]+", parts["domain"][1].removeprefix("csl:")):
        target = draft.domain(name)
        if target is None or "*" in name or name.startswith(("/", "file:")):
            draft.left(parts["domain"][0], f"{name}: a domain stands with its name")
        else:
            draft.set(parts["keyfile"][0], "dkim", value, "", target)
    for name in ("domain", "selector", *(("signaturealgorithm",) if algorithm else ())):
        draft.same(found[name][0], "told with KeyFile")


def read_opendmarc(draft: Draft, path: str, text: str) -> None:
    for line, name, value in _lines(text, path):
        if name in _HOUSE:
            draft.same(line, "a matter of OpenDMARC's own house")
        elif name in _DMARC_SAME or name.startswith("failurereports"):
            draft.same(line, _DMARC_SAME.get(name, _DMARC_SAME["failurereports"]))
        elif name == "rejectfailures":
            follow = value.lower() in ("true", "yes", "1")
            draft.set(line, "stage.dmarc.reject", "follow" if follow else "note")
            if not follow:
                draft.set(line, "stage.dmarc.quarantine", "note")
        elif name == "authservid":
            _authserv(draft, line, value)
        elif name == "trustedauthservids":
            ids = [part for part in re.split(r"[\s,]+", value) if part.upper() != "HOSTNAME"]
            if ids:
                draft.add(line, "pipeline.trusted_authserv", list(ids))
            else:
                draft.same(line, "our own name is known")
        elif name == "socket":
            _socket(draft, line, value)
        else:
            draft.left(line, "filterd has nothing that is set like this")
    if "rejectfailures" not in text.lower():
        line = Line(path, 0, "RejectFailures (not there)")
        draft.set(line, "stage.dmarc.reject", "note", "OpenDMARC refuses nothing unless it is told to")
        draft.set(line, "stage.dmarc.quarantine", "note")


def read_postsrsd(draft: Draft, path: str, text: str) -> None:
    """SRS_DOMAIN=x (1.x) and srs-domain = "x" (2.x)."""
    for number, raw in enumerate(text.split("\n"), 1):
        bare = raw.strip()
        if not bare or bare.startswith("#"):
            continue
        line = Line(path, number, bare)
        name, _, value = bare.partition("=")
        name, value = name.strip().lower().replace("-", "_"), value.strip().strip("\"'")
        if name == "srs_domain":
            if draft.domain(value) is None:
                draft.left(line, "names no domain")
            else:
                draft.set(line, "srs.domain", value.lower())
        elif name in ("srs_secret", "secrets_file"):
            draft.set(
                line,
                "srs.secrets",
                [f"file:{os.path.abspath(value)}"],
                "so that bounces to old addresses come home",
            )
        elif name == "srs_exclude_domains":
            names = [part for part in re.split(r"[\s,]+", value) if part]
            if names:
                draft.add(line, "srs.exempt", list(names))
            else:
                draft.same(line, "nobody")
        elif name == "domains":
            draft.same(line, "our domains are [[domain]]")
        elif name in ("srs_separator", "separator") and value not in ("=", ""):
            draft.left(line, "addresses are written SRS0=...; those of old mail are understood all the same")
        else:
            draft.same(line, "a matter of postsrsd's own house")
