"""The house keeps its own rules: layers, one importer per library, durable primitives, sizes, registries, names.

Reads every import of the product by its syntax tree. What is listed here as an exception may only become less.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rules", "pipeline", "filterd")
MAY_IMPORT = {"rules": set(), "pipeline": {"rules"}, "filterd": {"rules", "pipeline"}}

# The module that is allowed to import each library. More than one needs a reason here.
ADAPTERS = {
    "argon2": {"filterd/accounts/password.py"},
    "sievelib": {"filterd/cli/managesieve_client.py"},
    "cryptography": {
        "pipeline/adapters/crypto.py",
        "filterd/net/tls.py",
    },  # signatures; certificates of our own
    "uvloop": {"filterd/app.py"},
}
DURABLE = "filterd/store/durable.py"
DURABLE_CALLS = {
    "os": {"fsync", "fdatasync", "rename", "renames", "replace", "link"},
    "fcntl": None,
    "shutil": {"move"},
}
PATH_CALLS = {"rename", "replace", "hardlink_to"}  # methods of pathlib.Path

FILE_ENDINGS = {
    "db",
    "toml",
    "py",
    "md",
    "log",
    "pid",
    "sieve",
    "service",
    "socket",
}  # of names in the manual

MAX_FILE, MAX_FUNCTION = 600, 80  # lines, STYLE section 6
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {"filterd/demo/samples.py:samples": 97}


@cache
def sources() -> tuple[Path, ...]:
    return tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """(module, name or "", line) of every import, inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = path.relative_to(ROOT).parent.parts
                base = ".".join(package[: len(package) - node.level + 1])
                module = f"{base}.{node.module}" if node.module else base
            else:
                module = node.module or ""
            for alias in node.names:
                yield module, alias.name, node.lineno


def test_imports_go_down_only() -> None:
    wrong = []
    for path in sources():
        package = path.relative_to(ROOT).parts[0]
        for module, _, line in imports(path):
            top = module.partition(".")[0]
            if top in PACKAGES and top != package and top not in MAY_IMPORT[package]:
                wrong.append(f"{name_of(path)}:{line} imports {module}")
            if top == "tests":
                wrong.append(f"{name_of(path)}:{line} imports the tests")
    assert not wrong, "\n".join(wrong)


def test_nobody_uses_another_packages_private_names() -> None:
    wrong = []
    for path in sources():
        here = path.relative_to(ROOT).with_suffix("").parts
        for module, name, line in imports(path):
            parts = module.split(".")
            if parts[0] not in PACKAGES:
                continue
            private = [
                part for part in (*parts[1:], name) if part.startswith("_") and not part.startswith("__")
            ]
            if private and tuple(parts[: len(here) - 1]) != here[:-1]:
                wrong.append(f"{name_of(path)}:{line} uses {module}.{name}")
    assert not wrong, "\n".join(wrong)


def test_each_library_has_one_importer() -> None:
    users: dict[str, set[str]] = {}
    for path in sources():
        for module, _, _ in imports(path):
            top = module.partition(".")[0]
            if top and top not in PACKAGES and top not in sys.stdlib_module_names:
                users.setdefault(top, set()).add(name_of(path))
    wrong = [
        f"{library}: {', '.join(sorted(files))}"
        for library, files in users.items()
        if (len(files) > 1 or library in ADAPTERS) and not files <= ADAPTERS.get(library, set())
    ]
    assert not wrong, "more than one importer:\n" + "\n".join(wrong)


def test_every_library_is_declared() -> None:
    """What the product imports is a dependency of the project (by the name it is imported under)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    declared = {re.split(r"[\s<>=!~;\[]", line)[0].lower().replace("-", "_") for line in lines}
    other_names = {
        "dns": "dnspython",
        "dkim": "dkimpy",
        "spf": "pyspf",
        "re2": "google_re2",
        "argon2": "argon2_cffi",
    }
    missing = set()
    for path in sources():
        for module, _, _ in imports(path):
            top = module.partition(".")[0]
            if top and top not in PACKAGES and top not in sys.stdlib_module_names:
                if other_names.get(top, top).lower() not in declared:
                    missing.add(f"{top} ({name_of(path)})")
    assert not missing, ", ".join(sorted(missing))


def test_durable_primitives_have_one_home() -> None:
    wrong = []
    for path in sources():
        if name_of(path) == DURABLE:
            continue
        wrong += [
            f"{name_of(path)}:{line} imports fcntl" for module, _, line in imports(path) if module == "fcntl"
        ]
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, method = node.func.value, node.func.attr
            if isinstance(owner, ast.Name) and owner.id in DURABLE_CALLS:
                if method in (DURABLE_CALLS[owner.id] or set()):
                    wrong.append(f"{name_of(path)}:{node.lineno} calls {owner.id}.{method}")
            elif method in PATH_CALLS and len(node.args) == 1 and _looks_like_a_path(owner):
                wrong.append(f"{name_of(path)}:{node.lineno} calls .{method} of a path")
    assert not wrong, "\n".join(wrong)


def _looks_like_a_path(owner: ast.expr) -> bool:
    text = ast.unparse(owner).lower()
    return "path" in text or "file" in text


def test_the_clock_and_chance_come_through_ports() -> None:
    """rules and pipeline never ask the machine: Clock, Ids and Resolver are handed in (thread_time is no clock)."""
    allowed = {"thread_time", "perf_counter", "process_time"}
    wrong = []
    for path in sources():
        if (
            path.relative_to(ROOT).parts[0] == "filterd"
            or "adapters" in path.parts
            or path.name == "__main__.py"
        ):
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                called = f"{owner}.{node.func.attr}"
                if (owner == "time" and node.func.attr not in allowed) or called in (
                    "datetime.now",
                    "datetime.utcnow",
                    "datetime.datetime.now",
                    "socket.getaddrinfo",
                    "socket.gethostbyname",
                ):
                    wrong.append(f"{name_of(path)}:{node.lineno} calls {called}")
        wrong += [
            f"{name_of(path)}:{line} imports {module}"
            for module, _, line in imports(path)
            if module in ("random", "secrets", "uuid")
        ]
    assert not wrong, "\n".join(wrong)


# -- sizes and words -----------------------------------------------------------------------------------------------------


def file_sizes() -> dict[str, int]:
    return {name_of(path): path.read_bytes().count(b"\n") for path in sources()}


def function_sizes() -> dict[str, int]:
    out: dict[str, int] = {}
    for path in sources():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                out[f"{name_of(path)}:{node.name}"] = node.end_lineno - node.lineno + 1
    return out


@pytest.mark.parametrize(
    ("sizes", "most", "exceptions"),
    [(file_sizes, MAX_FILE, LONG_FILES), (function_sizes, MAX_FUNCTION, LONG_FUNCTIONS)],
    ids=["files", "functions"],
)
def test_sizes(sizes, most, exceptions) -> None:
    found = {name: size for name, size in sizes().items() if size > most}
    too_long = [f"{name}: {size} lines" for name, size in found.items() if size > exceptions.get(name, most)]
    assert not too_long, f"over {most} lines:\n" + "\n".join(too_long)
    stale = [
        f"{name}: allowed {size}, has {sizes().get(name, 0)}"
        for name, size in exceptions.items()
        if found.get(name, 0) < size
    ]
    assert not stale, "the list of exceptions only shrinks; write the new number:\n" + "\n".join(stale)


def test_every_file_says_why_it_exists() -> None:
    silent = [
        name_of(path) for path in sources() if path.stat().st_size and not ast.get_docstring(tree_of(path))
    ]
    assert not silent, "\n".join(silent)


def test_no_notes_to_self_and_no_silenced_errors() -> None:
    words = re.compile(
        rb"\b(?:TODO|FIXME|XXX|NotImplementedError)\b|type: ignore(?!\[)|except Exception:\s*pass|except:\s"
    )
    wrong = []
    for path in sources():
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if words.search(line):
                wrong.append(f"{name_of(path)}:{number} {line.decode().strip()}")
    assert not wrong, "\n".join(wrong)


def test_ignored_types_have_a_reason() -> None:
    wrong = []
    for path in sources():
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            if "# type: ignore[" in line and not re.search(r"# type: ignore\[[\w, -]+\]\s+# \w", line):
                wrong.append(f"{name_of(path)}:{number}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_called_utils() -> None:
    assert not [
        name_of(path) for path in sources() if path.stem in ("utils", "util", "helpers", "misc", "common")
    ]


def test_no_module_keeps_state() -> None:
    """``global`` is how a module would change what it holds."""
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Global)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_path_of_a_machine_in_tracked_files() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    if listed.returncode != 0 or not names:
        pytest.skip("not a git checkout")
    roots = {str(ROOT.parent), str(Path.home())} - {"/", "/root", "/tmp", "/home", "/var"}
    needles = [re.compile(re.escape(root) + r"(?![\w.-])") for root in roots]
    wrong = []
    for name in names:
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > 2_000_000:
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        wrong += [name for needle in needles if needle.search(text)]
    assert not wrong, "\n".join(wrong)


# -- registries ----------------------------------------------------------------------------------------------------------


def entry_points() -> dict[str, str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_entry_points_exist(name: str) -> None:
    module, _, function = entry_points()[name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_commands_are_whole() -> None:
    from filterd.cli import COMMANDS

    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    for command in COMMANDS:
        module = importlib.import_module(command.module)
        if command.name != "sendmail":  # its flags are not ours
            assert callable(module.configure) and callable(module.run), command.name
        text = module.__doc__ or ""
        assert "Examples:" in text, f"{command.name}: the help needs examples"


def test_every_command_has_a_test() -> None:
    from filterd.cli import COMMANDS

    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [
        command.name for command in COMMANDS if not re.search(rf"[\"'\s]{command.name}[\"'\s,]", tests)
    ]
    assert not missing, missing


def test_stage_settings_are_what_the_configuration_says() -> None:
    """filterd.config.schema repeats the settings of the stages (importing them all costs too much): they must agree."""
    from filterd.config import schema
    from filterd.config.values import SocketAddress, socket_address
    from pipeline.stages import STAGES

    sections = {
        field.name: getattr(schema.Stages(), field.name) for field in dataclasses.fields(schema.Stages)
    }
    sections["srs"] = schema.Srs()
    wrong = []
    for entry in STAGES:
        section = sections.get(entry.name)
        if section is None:
            wrong.append(f"[stage.{entry.name}] is missing")
            continue
        settings_class = entry.settings
        if isinstance(section, tuple):  # an array of tables: one element on each side
            from filterd.config.stages import MilterFilter
            from pipeline.stages.milters import MilterSettings

            section, settings_class = MilterFilter(), MilterSettings
        known = {field.name: field for field in dataclasses.fields(section)}
        for field in dataclasses.fields(settings_class):
            if field.name not in known:
                wrong.append(f"stage.{entry.name}.{field.name} is missing")
                continue
            ours, theirs = getattr(section, field.name), field.default
            if isinstance(ours, SocketAddress):
                theirs = socket_address(str(theirs)) if theirs else SocketAddress()
            if ours != theirs:
                wrong.append(f"stage.{entry.name}.{field.name}: {ours!r} here, {theirs!r} there")
            choices = tuple(field.metadata.get("choices", ()))
            if choices and known[field.name].metadata["choices"] not in (choices, ()):
                wrong.append(f"stage.{entry.name}.{field.name}: other choices than {choices}")
    assert not wrong, "\n".join(wrong)


def test_stage_settings_reach_the_stages() -> None:
    """What the file says about a stage is what the stage is made with (``filterd.config.bridge.filled`` does it)."""
    from filterd.assembly import stage_settings
    from filterd.config.load import parse

    text = """
        [server]
        hostname = "mail.example.org"
        [[domain]]
        name = "example.org"
        [stage.spf]
        fail = "junk"
        temperror = "defer"
        helo = false
        [stage.clamav]
        oversize = "defer"
        parallel = 3
        [stage.spamassassin]
        user = "filterd"
        enabled = true
    """
    config = parse(text)
    for name, made in stage_settings(config).items():
        section = config.srs if name == "srs" else getattr(config.stage, name)
        if isinstance(section, tuple):
            continue  # tests/unit/filterd/test_milter.py
        for field in dataclasses.fields(made):  # type: ignore[arg-type]
            ours, theirs = getattr(section, field.name), getattr(made, field.name)
            assert type(ours) is not type(theirs) or ours == theirs, (
                f"stage.{name}.{field.name}: {ours!r} became {theirs!r}"
            )


def test_every_configuration_key_is_used() -> None:
    """Each key's name is read somewhere outside of filterd/config."""
    from filterd.config import schema

    text = "\n".join(
        path.read_text("utf-8")
        for path in sources()
        if path.relative_to(ROOT).parts[:2] != ("filterd", "config")
    )
    stages = {field.name for entry in _stages() for field in dataclasses.fields(entry.settings)}
    unused = [
        key.name
        for key in schema.all_keys()
        if not key.section
        and (last := key.name.rpartition(".")[2]) not in stages
        and not re.search(rf"\.{last}\b|\"{last}\"", text)
        and key.name != "version"
    ]
    assert not unused, unused


def _stages():
    from pipeline.stages import STAGES

    return STAGES


# -- the documentation ---------------------------------------------------------------------------------------------------


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*(ROOT / "filterd" / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    wrong = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if (
                "://" not in target
                and not target.startswith("mailto:")
                and not (page.parent / target).exists()
            ):
                wrong.append(f"{name_of(page)}: {target}")
    assert not wrong, "\n".join(wrong)


def test_decisions_are_in_their_index() -> None:
    folder = ROOT / "filterd" / "docs" / "decisions"
    index = (folder / "0000-index.md").read_text("utf-8")
    missing = [page.name for page in folder.glob("[0-9]*.md") if page.name[:4] not in index]
    assert not missing, missing


def test_see_also_names_pages_that_exist() -> None:
    from filterd.cli import COMMANDS
    from filterd.cli.manual import GENERATED, manual_pages

    pages = {GENERATED, *manual_pages()} | {command.name for command in COMMANDS}
    wrong = []
    for command in COMMANDS:
        text = importlib.import_module(command.module).__doc__ or ""
        wrong += [
            f"{command.name}: {page}"
            for page in re.findall(r"filterd help (\S+)", text)
            if page.rstrip(",.") not in pages
        ]
    assert not wrong, wrong


def test_keys_named_in_the_documentation_exist() -> None:
    """``[section] key`` words in code spans of the manual, such as `stage.clamav.found`, are keys."""
    from filterd.config import schema

    known = {key.name.replace("[]", "") for key in schema.all_keys()}
    tops = {name.partition(".")[0] for name in known if "." in name}
    wrong = []
    for page in (ROOT / "filterd" / "docs").rglob("*.md"):
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", page.read_text("utf-8")):
            if (
                name.partition(".")[0] in tops
                and name not in known
                and name.rpartition(".")[2] not in FILE_ENDINGS
            ):
                wrong.append(f"{name_of(page)}: {name}")
    assert not wrong, "\n".join(wrong)
