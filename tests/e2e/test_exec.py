"""filterd-exec as a process of its own: programs of scripts at delivery and on IMAP events, and what they cannot reach."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from filterd.workers import die_with
from tests import capabilities
from tests.e2e.server import DOMAIN, ENVIRONMENT, Server, mail, wait_for
from tests.programs import no_namespaces

pytestmark = pytest.mark.e2e


PROGRAMS = {
    "loud": "tr a-z A-Z",
    "fail": "cat >/dev/null; exit 2",
    "words": "printf '%s|' \"$@\"",
    "keep": "cat > taken; exit 0",
    "slow": "(setsid sleep 321 >/dev/null 2>&1 &); sleep 321",
    "spy": """echo "uid $(id -u)"; ls "$1" 2>&1 | head -1; cat "$2" 2>&1; ip link 2>/dev/null | grep -c UP
awk 'NR>2 {n++} END {print "interfaces " n+0}' /proc/net/dev
awk -v "path=$1" '$2 == path {print "cover " $3}' /proc/mounts; awk '/NoNewPrivs/ {print "newprivs " $2}' /proc/self/status
python3 -c 'import socket; socket.create_connection(("127.0.0.1", 1), 1)' 2>&1 | tail -1; echo "$SENDER $RECIPIENT $USER" """,
}


class Service:
    """The folder of programs, the process, and a server that finds it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-exec-"))
        self.folder.chmod(0o755)
        programs = self.folder / "programs"
        programs.mkdir(mode=0o755)
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        user = "nobody" if os.geteuid() == 0 else ""
        extra = f'[exec]\nsocket = "{self.folder}/socket"\ndirectory = "{programs}"\nuser = "{user}"\ntimeout = "3s"\n'
        self.server = Server(people=("ann", "bob"), extra=extra, doors=("smtp", "imaps", "sieve"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "filterd", "exec", "serve", "-c", str(self.server.config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            preexec_fn=partial(die_with, os.getpid()),
        )

    def start(self) -> None:
        wait_for(
            lambda: (self.folder / "socket").exists() or self.process.poll() is not None, 20, "the socket"
        )
        if self.process.poll() is not None:
            raise AssertionError(self.process.communicate()[0].decode())
        self.server.start()

    def close(self) -> None:
        self.server.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    cover = ("mount", "-t", "tmpfs", "none", str(tmp_path_factory.mktemp("covered")))
    said = no_namespaces("--net", "--mount", command=cover)
    if said and shutil.which("unshare"):  # without unshare the service itself has to start
        pytest.skip(f"no namespaces of network and mounts for us in this kernel or container: {said}")
    one = Service()
    try:
        one.start()
        yield one
    finally:
        one.close()


def activate(service: Service, text: str) -> None:
    path = service.folder / "main.sieve"
    path.write_text(text)
    from filterd.accounts.places import scripts_of
    from filterd.config.load import load
    from filterd.store.durable import RealDisk

    scripts = scripts_of(load(str(service.server.config)), f"ann@{DOMAIN}", RealDisk())
    scripts.put("main", text)
    scripts.activate("main")


def deliver(service: Service, subject: str) -> dict[str, dict[int, bytes]]:
    service.server.send(mail(subject), f"ann@{DOMAIN}")
    return service.server.read("ann")


def with_subject(found: dict[str, dict[int, bytes]], subject: str) -> list[tuple[str, bytes]]:
    wanted = f"subject: {subject}".lower().encode()
    return [(box, text) for box, texts in found.items() for text in texts.values() if wanted in text.lower()]


def test_filter_execute_and_pipe(service: Service) -> None:
    activate(
        service,
        """require ["vnd.dovecot.filter", "vnd.dovecot.execute", "vnd.dovecot.pipe", "variables", "fileinto", "mailbox",
        "duplicate", "copy"];
if header :contains "subject" "shout" {
    if not mailboxexists "Nowhere" { if filter "loud" { fileinto :create "Loud"; } }
} elsif header :contains "subject" "ask" {
    if execute :input "abc" :output "x" "loud" { fileinto :create "Asked/${x}"; }
} elsif header :contains "subject" "gone" { pipe "keep";
} elsif header :contains "subject" "jam" { pipe "fail";
} elsif header :contains "subject" "try" { fileinto :create "Tried"; pipe :try "fail"; }
""",
    )
    assert [box for box, _ in with_subject(deliver(service, "shout 1"), "shout 1")] == ["Loud"]
    ((_, text),) = with_subject(service.server.read("ann"), "shout 1")
    assert b"SUBJECT: SHOUT 1" in text
    assert [box for box, _ in with_subject(deliver(service, "ask 1"), "ask 1")] == ["Asked/ABC"]
    assert with_subject(deliver(service, "gone 1"), "gone 1") == []
    assert [box for box, _ in with_subject(deliver(service, "jam 1"), "jam 1")] == ["INBOX"]
    assert [box for box, _ in with_subject(deliver(service, "try 1"), "try 1")] == ["Tried"]


def test_what_a_program_cannot_do(service: Service) -> None:
    data = service.server.data
    secret = data / "secret"
    secret.write_text("seen")
    secret.chmod(0o644)
    activate(
        service,
        f"""require ["vnd.dovecot.execute", "variables", "editheader"];
execute :pipe :output "x" "spy" ["{data}", "{secret}"];
addheader "X-Said" "${{x}}";
if execute "slow" {{ addheader "X-Slow" "yes"; }}
""",
    )
    ((_, text),) = with_subject(deliver(service, "what it sees"), "what it sees")
    said = text.partition(b"X-Said:")[2].decode()
    assert "seen" not in said.partition("MIME")[0].partition("Received")[0]
    if os.geteuid() == 0:
        assert "uid 65534" in said
    assert "interfaces 1" in said and "unreachable" in said, said
    assert "cover tmpfs" in said and "newprivs 1" in said, said
    assert "orders@shop.example" in said and "ann@home.example ann@home.example" in said.replace("\r\n", "")
    assert b"X-Slow" not in text
    assert service.process.poll() is None
    assert not sleeping(), "what left its session is ended too"


def sleeping() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", b"321"]:
                found.append(entry.name)
    return found


def test_commands(service: Service) -> None:
    done = service.server.command("exec", "list")
    assert done.stdout.decode().split() == sorted(PROGRAMS)
    done = service.server.command("exec", "run", "loud", stdin="abc")
    assert (done.returncode, done.stdout) == (0, b"ABC")
    words = ("exec", "-c", str(service.server.config), "run", "words", "--", "-v", "-c", "a b")
    assert service.server.command(*words, config=False).stdout == b"-v|-c|a b|"
    assert service.server.command("exec", "run", "fail").returncode == 2
    assert service.server.command("exec", "run", "none").returncode == 1


def test_a_script_that_names_a_program_goes_by_the_command_line_too(service: Service, tmp_path: Path) -> None:
    script = tmp_path / "printed.sieve"
    script.write_text('require "vnd.dovecot.pipe"; pipe "keep";')
    done = service.server.command("sieve", "put", f"bob@{DOMAIN}", str(script), "--activate")
    assert done.returncode == 0, done.stderr
    assert b"printed" in service.server.command("sieve", "list", f"bob@{DOMAIN}").stdout


def test_without_the_service_there_is_no_capability() -> None:
    extra = '[exec]\nsocket = "nowhere.sock"\ndirectory = "programs"\n'
    with Server(people=("ann",), extra=extra, doors=("sieve",)) as server:
        done = server.command("exec", "serve")
        assert done.returncode == 78 and b"exec.directory" in done.stderr
        script = server.folder / "printed.sieve"
        script.write_text('require "vnd.dovecot.pipe"; pipe "keep";')
        done = server.command("sieve", "put", f"ann@{DOMAIN}", str(script))
        assert done.returncode == 1 and b"switched off on this server" in done.stderr
        import socket

        with socket.create_connection(("127.0.0.1", server.ports["sieve"]), 10) as sock:
            greeting = b""
            while b"\r\nOK" not in greeting:
                greeting += sock.recv(65536)
        assert b"imapsieve" in greeting and b"vnd.dovecot.pipe" not in greeting


@pytest.mark.skipif(
    os.geteuid() != 0, reason="not root: a capability cannot be taken from filterd-exec (CAP_SETPCAP)"
)
@pytest.mark.parametrize("isolation", ["required", "best-effort"])
def test_where_the_system_forbids_namespaces(isolation: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="filterd-exec-"))
    folder.chmod(0o755)
    (folder / "programs").mkdir(mode=0o755)
    (folder / "programs" / "loud").write_text("#!/bin/sh\ntr a-z A-Z\n")
    (folder / "programs" / "loud").chmod(0o755)
    extra = f'[exec]\nsocket = "{folder}/socket"\ndirectory = "{folder}/programs"\nuser = "nobody"\n'
    try:
        server = Server(people=("ann",), extra=f'{extra}isolation = "{isolation}"\n', doors=("sieve",))
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "filterd", "exec", "serve", "-c", str(server.config)],
                stdout=out,
                stderr=out,
                env=ENVIRONMENT,
                preexec_fn=capabilities.without(capabilities.SYS_ADMIN),  # as in a container: no namespaces
            )
        try:
            wait_for(lambda: process.poll() is not None or b"listens" in log.read_bytes(), 30, "the service")
            if isolation == "required":
                assert process.wait(10) == 78 and b"take away from programs: the network" in log.read_bytes()
            else:
                assert b"not taken away from programs: the network" in log.read_bytes(), log.read_text()
                done = server.command("exec", "run", "loud", stdin="abc")
                assert (done.returncode, done.stdout) == (0, b"ABC"), done.stderr
        finally:
            process.terminate()
            process.wait(10)
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
