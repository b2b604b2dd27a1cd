"""Print the manual.

Examples:
  filterd help              the list of pages
  filterd help flow         the way of one message
  filterd help serve        the same as `filterd serve --help`
"""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable

from filterd.cli import COMMANDS, OK, CliError
from filterd.config import describe

DOCS = "docs"
GENERATED = "configuration"  # made from the schema, so that it is always right
SUFFIX = ".md"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "page", nargs="?", default="", metavar="PAGE", help="a page of the manual, or a command"
    )


def run(arguments: argparse.Namespace) -> int:
    pages = manual_pages()
    if not arguments.page:
        print("Pages of the manual (filterd help PAGE):")
        titles = {
            GENERATED: "Every key of filterd.toml",
            **{name: _title(page) for name, page in pages.items()},
        }
        width = max(len(name) for name in titles)
        for name, title in titles.items():
            print(f"  {name:<{width}}  {title}")
        print("\nCommands: " + " ".join(command.name for command in COMMANDS) + "   (filterd COMMAND --help)")
        return OK
    if arguments.page == GENERATED:
        print(describe.manual(), end="")
        return OK
    found = pages.get(arguments.page)
    if found is not None:
        print(found.read_text("utf-8"), end="")
        return OK
    command = next((entry for entry in COMMANDS if entry.name == arguments.page), None)
    if command is not None:
        from filterd.__main__ import run as run_command

        return run_command(command, ["--help"])
    close = get_close_matches(arguments.page, [GENERATED, *pages, *(entry.name for entry in COMMANDS)], n=1)
    hint = f'did you mean "{close[0]}"?' if close else "`filterd help` lists the pages"
    raise CliError(f'there is no page "{arguments.page}"; {hint}')


def manual_pages() -> dict[str, Traversable]:
    """Name -> file, the pages of ``filterd/docs`` and of the folders in it ("decisions/0001-...")."""
    out: dict[str, Traversable] = {}
    waiting = [("", resources.files("filterd") / DOCS)]
    while waiting:
        prefix, folder = waiting.pop(0)
        for entry in sorted(folder.iterdir(), key=lambda item: item.name):
            if entry.is_dir():
                waiting.append((f"{prefix}{entry.name}/", entry))
            elif entry.name.endswith(SUFFIX):
                out[prefix + entry.name.removesuffix(SUFFIX)] = entry
    return out


def _title(page: Traversable) -> str:
    return page.read_text("utf-8").lstrip("# ").partition("\n")[0]
