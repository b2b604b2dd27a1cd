"""Scripts as files: names are data, changes are whole, the layout is Pigeonhole's."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.accounts import scripts
from filterd.accounts.scripts import FileScriptStore, ScriptLimits
from filterd.accounts.scripts_base import ScriptInfo, ScriptStoreError
from filterd.store.durable import RealDisk, digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ann").mkdir()
    return tmp_path / "ann"


@pytest.fixture
def store(root: Path) -> FileScriptStore:
    return FileScriptStore(str(root), RealDisk(), ScriptLimits(size=100, scripts=3))


def code(call, *arguments) -> str:
    with pytest.raises(ScriptStoreError) as caught:
        call(*arguments)
    return caught.value.code


def test_nothing_yet(store: FileScriptStore, tmp_path: Path) -> None:
    assert store.list() == () and store.active() is None
    assert code(store.get, "x") == "NONEXISTENT"
    store.activate("")
    nowhere = FileScriptStore(str(tmp_path / "nobody"), RealDisk(), ScriptLimits())
    assert nowhere.list() == () and nowhere.active() is None
    nowhere.activate("")


def test_the_life_of_a_script(store: FileScriptStore, root: Path) -> None:
    store.put("main", "keep;\r\n")
    assert store.list() == (ScriptInfo("main", False),)
    assert store.active() is None
    store.activate("main")
    assert store.active() == ("main", "keep;\r\n")
    assert os.readlink(root / ".dovecot.sieve") == "sieve/main.sieve"
    store.put("main", "discard;")
    assert store.active() == ("main", "discard;"), "the active one is replaced in place"
    store.put("other", "stop;")
    store.activate("other")
    assert store.list() == (ScriptInfo("main", False), ScriptInfo("other", True))
    assert code(store.delete, "other") == "ACTIVE"
    store.delete("main")
    store.activate("")
    assert store.active() is None and not (root / ".dovecot.sieve").is_symlink()
    store.delete("other")
    assert store.list() == ()


def test_what_is_refused(store: FileScriptStore) -> None:
    assert code(store.put, "big", "x" * 101) == "QUOTA/MAXSIZE"
    assert code(store.put, "big", "ü" * 51) == "QUOTA/MAXSIZE"
    for name in "abc":
        store.put(name, "keep;")
    assert code(store.put, "d", "keep;") == "QUOTA/MAXSCRIPTS"
    assert code(store.have_space, "d", 1) == "QUOTA/MAXSCRIPTS"
    store.have_space("a", 100)
    store.put("a", "stop;")
    assert code(store.activate, "nope") == "NONEXISTENT"
    assert code(store.delete, "nope") == "NONEXISTENT"
    assert code(store.rename, "nope", "x") == "NONEXISTENT"
    assert code(store.rename, "a", "b") == "ALREADYEXISTS"


def test_renaming_the_active_one_keeps_it_active(store: FileScriptStore) -> None:
    store.put("a", "keep;")
    store.activate("a")
    store.rename("a", "b/c")
    assert store.active() == ("b/c", "keep;")
    assert store.list() == (ScriptInfo("b/c", True),)


@pytest.mark.parametrize("name", ["", "\x00", "a\nb", "a\x7fb", "a\u2028b", "x" * 129, "\ud800", "a\x85"])
def test_bad_names(store: FileScriptStore, name: str) -> None:
    assert code(store.put, name, "keep;") == ""


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "/",
        "../../etc/passwd",
        ".hidden",
        "%2F",
        "%",
        "a b",
        "ü" * 128,
        "\U0001f600" * 128,
        "x.sieve",
        "%" + "a" * 64,
        "history",
        "a\\b",
    ],
)
def test_odd_names_stay_inside(store: FileScriptStore, root: Path, name: str) -> None:
    store.put(name, "keep;")
    store.activate(name)
    assert store.list() == (ScriptInfo(name, True),)
    assert store.get(name) == "keep;"
    assert store.active() == (name, "keep;")
    assert sorted(entry.name for entry in root.iterdir()) == [".dovecot.sieve", "sieve"]
    store.activate("")
    store.delete(name)
    left = {entry.name for entry in (root / "sieve").iterdir()}
    assert left <= {"history", ".lock"}


@given(st.text(min_size=1, max_size=128))
@settings(max_examples=60, deadline=None)
def test_every_name_round_trips_or_is_refused(tmp_path_factory, name: str) -> None:
    folder = tmp_path_factory.mktemp("a")
    store = FileScriptStore(str(folder), RealDisk(), ScriptLimits())
    try:
        store.put(name, "keep;")
    except ScriptStoreError as error:
        assert error.code == ""
        return
    assert store.get(name) == "keep;"
    assert len(store.list()) == 1
    assert {entry.name for entry in folder.iterdir()} == {"sieve"}


def test_two_spellings_are_one_name(store: FileScriptStore) -> None:
    store.put("u\u0308ber", "keep;")
    assert store.get("über") == "keep;"


def test_a_script_by_hand_is_active_and_kept(store: FileScriptStore, root: Path) -> None:
    (root / ".dovecot.sieve").write_text("discard;")
    assert store.active() == ("dovecot", "discard;")
    store.put("main", "keep;")
    store.activate("main")
    assert store.active() == ("main", "keep;")
    assert store.version(digest(b"discard;").hex()) == "discard;"


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../other/sieve/x.sieve", "sieve/../../x.sieve", "sieve/none.sieve"]
)
def test_the_link_is_followed_only_into_its_folder(store: FileScriptStore, root: Path, target: str) -> None:
    (root.parent / "x.sieve").write_text("discard;")
    store.put("main", "keep;")
    os.symlink(target, root / ".dovecot.sieve")
    assert store.active() is None


def test_scripts_that_are_links_are_not_followed(store: FileScriptStore, root: Path) -> None:
    (root.parent / "secret").write_text("secret")
    store.put("main", "keep;")
    os.symlink(root.parent / "secret", root / "sieve" / "x.sieve")
    assert code(store.get, "x") == "NONEXISTENT"


def test_a_link_that_pigeonhole_made_is_understood(store: FileScriptStore, root: Path) -> None:
    store.put("main", "keep;")
    os.symlink(str(root / "sieve" / "main.sieve"), root / ".dovecot.sieve")
    assert store.active() == ("main", "keep;")


def test_an_edit_from_outside_is_seen(store: FileScriptStore, root: Path) -> None:
    store.put("main", "keep;")
    store.activate("main")
    assert store.active() == ("main", "keep;")
    (root / "sieve" / "main.sieve").write_text("discard;")
    assert store.active() == ("main", "discard;")


def test_old_versions_are_kept_and_bounded(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(scripts, "MAX_HISTORY", 5)
    store = FileScriptStore(str(root), RealDisk(), ScriptLimits())
    for number in range(10):
        store.put("main", f"# {number}\n")
    assert store.version(digest(b"# 9\n").hex()) == "# 9\n"
    assert len(list((root / "sieve" / "history").iterdir())) == 5
    assert store.version("../main") is None and store.version("0" * 64) is None


def test_an_interrupted_change_leaves_the_old_state(root: Path) -> None:
    """Cut at every durable step of a put and of an activation: the old script or the new one is there, whole."""

    class Cut(Exception):
        pass

    class Stopping(RealDisk):
        def __init__(self) -> None:
            super().__init__()
            self.left = 10**9

        def _step(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cut

        def rename(self, *arguments) -> None:
            self._step()
            super().rename(*arguments)

        def sync(self, *arguments) -> None:
            self._step()
            super().sync(*arguments)

        def sync_dir(self, *arguments) -> None:
            self._step()
            super().sync_dir(*arguments)

        def unlink(self, *arguments) -> None:
            self._step()
            super().unlink(*arguments)

        def publish(self, *arguments) -> None:
            self._step()
            super().publish(*arguments)

    disk = Stopping()
    store = FileScriptStore(str(root), disk, ScriptLimits())
    store.put("a", "one")
    store.put("b", "three")
    store.activate("a")
    for steps in range(12):
        for change in (
            lambda: store.put("a", "two"),
            lambda: store.activate("b"),
            lambda: store.rename("b", "c"),
        ):
            disk.left = steps
            try:
                change()
            except Cut:
                pass
            disk.left = 10**9
            active = store.active()
            assert active is not None and active[1] in ("one", "two", "three")
            names = {info.name for info in store.list()}
            assert "a" in names and names & {"b", "c"}
        if "b" not in {info.name for info in store.list()}:
            store.rename("c", "b")
        elif "c" in {info.name for info in store.list()}:
            if store.active() and store.active()[0] == "c":
                store.activate("a")
            store.delete("c")
        store.activate("a")
