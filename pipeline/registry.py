"""The registry of stages: what a stage's file declares so that configuration, help and manual know it.

A stage's file holds its settings (a frozen dataclass, each field made by ``setting``) and its class; one line in
``pipeline/stages/__init__.py`` adds it. What is not in that tuple does not exist.

Metadata of a settings field, for the configuration's schema and the manual:
``doc``      one or two sentences;
``kind``     "" (the field's own type), "duration" (float seconds; written ``"10s"``), "size" (int octets; written
             ``"25 MiB"``), "choice" (one of ``choices``), "socket" (see pipeline/endpoint.py), "patterns";
``choices``  the words a "choice" may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.errors import PipelineError
from pipeline.ports import Clock, Ids, Resolver
from pipeline.stage import Stage

T = TypeVar("T")


def setting(default: T, doc: str, kind: str = "", choices: Sequence[str] = ()) -> T:
    """A documented field of a settings dataclass. (It is typed as its default, as ``dataclasses.field`` is.)"""
    metadata = {"doc": doc, "kind": kind or ("choice" if choices else ""), "choices": tuple(choices)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class StageContext:
    """What the application lends to every stage. ``authserv_id`` names us in Authentication-Results;
    ``our_ids`` are all names of ours that strangers may forge there, ``trusted_ids`` those of our other
    servers, believed only from them."""

    clock: Clock
    ids: Ids
    resolver: Resolver
    hostname: str
    authserv_id: str = ""
    our_ids: frozenset[str] = frozenset()
    trusted_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One kind of stage. ``settings`` is its dataclass (all fields have defaults).

    ``create`` is None for what is no stage of its own in the runner: ``sieve``, ``privacy`` and ``srs`` act on what is
    stored or leaves, in the order of the configured list, and are called by the application (``acts_on = "plan"``).
    """

    name: str
    settings: type
    create: Callable[..., Stage] | None
    doc: str
    acts_on: str = "message"


def find(entries: Iterable[StageEntry], name: str) -> StageEntry:
    """The entry called ``name``. Raises PipelineError when there is none."""
    for entry in entries:
        if entry.name == name:
            return entry
    raise PipelineError(f"no stage is called {name!r}")


def build(
    entries: Sequence[StageEntry], names: Iterable[str], settings: Mapping[str, object], context: StageContext
) -> list[Stage]:
    """The stages of the configured list ``names``, in its order. ``settings`` by stage name, defaults when absent.

    Raises PipelineError for an unknown name and for settings of a wrong class.
    """
    out: list[Stage] = []
    for name in names:
        entry = find(entries, name)
        if entry.create is None:
            continue
        chosen = settings.get(name)
        if chosen is None:
            chosen = entry.settings()
        if not isinstance(chosen, entry.settings):
            raise PipelineError(f"the settings of stage {name} are a {type(chosen).__name__}")
        out.append(entry.create(chosen, context))
    return out


def documentation(settings: type) -> list[tuple[str, object, str, str]]:
    """(key, default, kind, text) of every field of a settings dataclass, in order."""
    if not dataclasses.is_dataclass(settings):
        raise PipelineError(f"{settings.__name__} is no settings dataclass")
    return [
        (one.name, one.default, str(one.metadata.get("kind", "")), str(one.metadata.get("doc", "")))
        for one in dataclasses.fields(settings)
    ]
