"""Other people's mailboxes: what each right lets a reader do, and that nobody learns anything without one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from filterd.accounts.directory import Account
from filterd.imap import shared
from filterd.imap.config import ImapLimits, ImapServerConfig
from filterd.imap.session import Authenticate
from filterd.imap.shared import SharedStore
from filterd.imap.shared_seen import Seen
from filterd.imap.sharing import Sharing
from filterd.store.acl import RIGHTS
from filterd.store.acl_guests import Guests
from filterd.store.acl_shares import MemoryShares
from filterd.store.base import AccountStore, NewMessage, StoreUnavailable
from filterd.store.memory import MemoryStore

from .conftest import NOW, Client, CountingIds, FakeClock, message

ANN, BOB, CAT, DAN, TEAM = (
    "ann@example.org",
    "bob@example.org",
    "cat@example.org",
    "dan@example.net",
    "team@example.org",
)
BOX = f"user/{BOB}/Work"
Login = Callable[..., Client]


class Mailer(Client):
    """A client of an account of its own."""

    def __init__(self, world: World, who: str, config: ImapServerConfig) -> None:
        self.who = who
        super().__init__(world.store.account(who), config)
        self.session.receive_data(f"l LOGIN {who} pw\r\n".encode())
        while (event := self.session.next_event()) is not None:
            if isinstance(event, Authenticate):
                self.session.authenticated(Account(who))
        self.session.data_to_send()


class World:
    def __init__(self, **options: str) -> None:
        self.store = MemoryStore(FakeClock(), CountingIds())
        self.sharing = Sharing(Guests(self.store), MemoryShares(), **options)

    def __call__(self, who: str, mailbox: str = "", limits: ImapLimits = ImapLimits()) -> Mailer:
        config = ImapServerConfig(message_size=100_000, sharing=self.sharing, limits=limits)
        client = Mailer(self, who, config)
        if mailbox:
            client.ok(f'SELECT "{mailbox}"')
        return client

    def fill(self, who: str, mailbox: str, count: int = 3) -> None:
        account = self.store.account(who)
        if mailbox != "INBOX":
            account.create(mailbox)
        account.append(mailbox, [NewMessage(message(n), date=NOW - 9) for n in range(1, count + 1)])


@pytest.fixture
def world() -> World:
    made = World()
    made.fill(BOB, "Work")
    return made


def share(world: World, rights: str, who: str = ANN, mailbox: str = "Work") -> None:
    world(BOB).ok(f'SETACL "{mailbox}" {who} {rights}')


# -- the commands of the lists -----------------------------------------------------------------------------------------------


def test_the_lists(world: World) -> None:
    bob = world(BOB)
    assert bob.ok("MYRIGHTS Work") == ['* MYRIGHTS "Work" lrswipkxteacd']
    assert bob.ok("GETACL Work") == [f'* ACL "Work" "{BOB}" lrswipkxteacd']
    bob.ok("SETACL Work ann lr")
    bob.ok(f"SETACL Work {CAT} lrswd")
    bob.ok("SETACL Work -anyone w")
    assert bob.ok("GETACL Work") == [
        f'* ACL "Work" "{BOB}" lrswipkxteacd "-anyone" w "{ANN}" lr "{CAT}" lrswted'
    ]
    bob.ok(f"SETACL Work {ANN} +i")
    bob.ok(f"SETACL Work {ANN} -r")
    bob.ok(f"DELETEACL Work {CAT}")
    bob.ok(f"DELETEACL Work {CAT}")
    assert bob.ok("GETACL Work") == [f'* ACL "Work" "{BOB}" lrswipkxteacd "-anyone" w "{ANN}" li']
    assert bob.ok(f"LISTRIGHTS Work {ANN}") == [f'* LISTRIGHTS "Work" "{ANN}" "" l r s w i p k x t e a c d']
    assert bob.ok(f"LISTRIGHTS Work {BOB}") == [f'* LISTRIGHTS "Work" "{BOB}" lrswipkxteacd']


def test_what_is_refused_in_the_lists(world: World) -> None:
    bob = world(BOB)
    assert bob("SETACL Work ann lrq")[-1].startswith("BAD")  # RFC 4314 3.1: unknown rights are not ignored
    assert bob("SETACL Work ann LR")[-1].startswith("BAD")
    assert bob("SETACL Nope ann lr")[-1].startswith("NO [NONEXISTENT]")
    assert bob(f"SETACL Work {BOB} lr")[-1].startswith("NO [CANNOT]")
    assert bob(f"SETACL Work -{BOB} r")[-1].startswith("NO [CANNOT]")
    assert bob(f"DELETEACL Work {BOB}")[-1].startswith("NO [CANNOT]")
    bob.ok(f"SETACL Work {BOB} lrswipkxtea")
    assert bob('SETACL Work "a b" lr')[-1].startswith("NO [CANNOT]")
    for number in range(200):
        bob.ok(f"SETACL Work u{number} l")
    assert bob("SETACL Work one-more l")[-1].startswith("NO [LIMIT]")
    bob.ok("SETACL Work u7 lr")


def test_capabilities_and_namespaces(world: World) -> None:
    ann = world(ANN)
    words = ann.ok("CAPABILITY")[0].split()
    assert {"ACL", "RIGHTS=kxte", "LIST-MYRIGHTS"} <= set(words)
    assert ann.ok("NAMESPACE") == ['* NAMESPACE (("" "/")) (("user/" "/")) NIL']
    assert World(public=TEAM)(ANN).ok("NAMESPACE") == [
        '* NAMESPACE (("" "/")) (("user/" "/")) (("Public/" "/"))'
    ]


def test_without_sharing_there_are_no_lists(connect: Callable[..., Client]) -> None:
    client = connect()
    assert "ACL" not in client.ok("CAPABILITY")[0].split()
    assert client("GETACL INBOX")[-1].startswith("BAD")
    assert client.ok("NAMESPACE") == ['* NAMESPACE (("" "/")) NIL NIL']


# -- each right alone ----------------------------------------------------------------------------------------------------------

NOT_THERE, REFUSED, DONE = "NO [NONEXISTENT]", "NO [NOPERM]", "OK"
APPEND = "APPEND {box} {{4+}}\r\nA: b"
# command -> the right with which it succeeds ("" none alone)
COMMANDS = {
    "SELECT {box}": "r",
    "EXAMINE {box}": "r",
    "STATUS {box} (MESSAGES)": "r",
    APPEND: "i",
    "DELETE {box}": "x",
    "CREATE {box}/New": "k",
    "GETACL {box}": "a",
    "SETACL {box} cat lr": "a",
    "DELETEACL {box} cat": "a",
    "LISTRIGHTS {box} cat": "a",
    "MYRIGHTS {box}": "lrikxa",
    "GETQUOTAROOT {box}": RIGHTS,
    "RENAME {box} user/bob@example.org/Other": "",
    "RENAME {box} Mine": "",
    "GETMETADATA {box} /shared/comment": "",
    'SETMETADATA {box} (/private/comment "x")': "",
}


@pytest.mark.parametrize("right", RIGHTS)
def test_each_right_alone(right: str) -> None:
    for command, enough in COMMANDS.items():
        world = World()
        world.fill(BOB, "Work")
        share(world, right)
        answer = world(ANN)(command.format(box=BOX))[-1]
        if right in enough and enough:
            assert answer.startswith(DONE), (right, command, answer)
        elif command.startswith("RENAME") and right == "x":
            assert answer.startswith(("NO [CANNOT]", REFUSED)), (right, command, answer)
        elif command.startswith("RENAME"):
            assert answer.startswith(REFUSED if right == "l" else NOT_THERE), (right, command, answer)
        elif command.startswith("CREATE"):
            assert answer.startswith(REFUSED), (right, command, answer)  # the same whatever is there
        elif command.startswith("APPEND") and right != "l":
            assert answer.startswith("NO [TRYCREATE]"), (right, command, answer)
        else:
            assert answer.startswith(REFUSED if right == "l" else NOT_THERE), (right, command, answer)


@pytest.mark.parametrize("right", RIGHTS)
def test_each_right_beside_reading(right: str) -> None:
    """What needs the mailbox selected: ``r`` and one more."""
    commands = {
        "STORE 1 +FLAGS (\\Seen)": "s",
        "STORE 1 +FLAGS (\\Deleted)": "t",
        "STORE 1 +FLAGS (\\Flagged)": "w",
        "STORE 1 +FLAGS (word)": "w",
        "STORE 1 FLAGS (\\Seen \\Flagged)": "swt",
        "STORE 1 FLAGS ()": "swt",
        "EXPUNGE": "e",
        "COPY 1 INBOX": RIGHTS,
        "MOVE 1 INBOX": "",
        "FETCH 1 (FLAGS BODY[])": RIGHTS,
        "SEARCH TEXT Body": RIGHTS,
        "CLOSE": RIGHTS,
    }
    for command, enough in commands.items():
        world = World()
        world.fill(BOB, "Work")
        share(world, "lr" + right)
        ann = world(ANN, BOX)
        lines = ann(command)
        if right in enough:
            assert lines[-1].startswith("OK"), (right, command, lines)
        else:
            assert lines[-1].startswith("NO"), (right, command, lines)
        if command.startswith("FETCH"):
            assert ("\\Seen" in " ".join(ann.ok("FETCH 1 FLAGS"))) == (right == "s")
    told = [line for line in world_with(right)(ANN)(f'SELECT "{BOX}"') if "PERMANENTFLAGS" in line]
    shown = {
        "s": "(\\Seen)",
        "t": "(\\Deleted)",
        "w": "(\\Answered \\Flagged \\Draft \\*)",
    }.get(right, "()")
    assert told == [f"* OK [PERMANENTFLAGS {shown}] Flags kept"]


def world_with(right: str) -> World:
    world = World()
    world.fill(BOB, "Work")
    share(world, "lr" + right)
    return world


def test_read_only_without_a_right_to_change(world: World) -> None:
    share(world, "lr")
    assert world(ANN)(f'SELECT "{BOX}"')[-1].startswith("OK [READ-ONLY]")
    share(world, "lrs")
    assert world(ANN)(f'SELECT "{BOX}"')[-1].startswith("OK [READ-WRITE]")


def test_no_method_of_the_store_goes_around_the_rights() -> None:
    """A new method of the contract, with an answer of its own there, must not be answered past the rights."""
    asked = {name for name in vars(AccountStore) if not name.startswith("_")}
    assert asked <= set(vars(SharedStore))


def test_close_keeps_what_must_not_be_expunged(world: World) -> None:
    share(world, "lrt")
    ann = world(ANN, BOX)
    ann.ok("STORE 1 +FLAGS (\\Deleted)")
    ann.ok("CLOSE")
    assert world(BOB).ok("STATUS Work (MESSAGES DELETED)") == ['* STATUS "Work" (MESSAGES 3 DELETED 1)']


# -- nothing to be learnt ------------------------------------------------------------------------------------------------------


def test_what_is_not_shared_does_not_exist(world: World) -> None:
    """Word for word the same answers for a mailbox without rights, one that is not there, and an account that is not."""
    share(world, "lr", mailbox="INBOX")
    world.store.account(BOB).create("Secret")
    names = (
        f"user/{BOB}/Work",
        f"user/{BOB}/Nope",
        "user/nobody@example.org/INBOX",
        "user/x",
        "user/",
        "user//INBOX",
    )
    commands = [
        *COMMANDS,
        'COPY 1 "{box}"',
        'MOVE 1 "{box}"',
        "REPLACE 1 {box} {{4+}}\r\nA: b",
        'APPEND INBOX CATENATE (URL "/{raw};UIDVALIDITY=1/;UID=1")',
    ]
    world.fill(ANN, "INBOX")
    for command in commands:
        answers = set()
        for name in names:
            ann = world(ANN, "INBOX")
            shown = f'"{name}"' if '"{box}"' not in command else name
            lines = ann(command.format(box=shown, raw=name))
            answers.add(" ".join(lines).replace(name, "?"))
        assert len(answers) == 1, (command, answers)
        assert "OK" not in answers.pop().split()[0]


def test_listing_shows_what_may_be_seen(world: World) -> None:
    bob = world(BOB)
    bob.ok("CREATE Secret")
    bob.ok("CREATE Work/Deep")
    share(world, "l")
    share(world, "r", mailbox="Secret")
    ann = world(ANN)
    assert ann.ok('LIST "" "user/*"') == [
        f'* LIST (\\Noselect \\HasChildren) "/" "user/{BOB}"',
        f'* LIST (\\HasNoChildren) "/" "{BOX}"',
    ]
    assert ann.ok('LIST "" (%) RETURN (MYRIGHTS)') == [
        '* LIST (\\HasNoChildren) "/" "INBOX"',
        '* MYRIGHTS "INBOX" lrswipkxteacd',
        '* LIST (\\NonExistent \\HasChildren) "/" "user"',
    ]
    assert ann.ok(f'LIST "" {BOX} RETURN (MYRIGHTS STATUS (MESSAGES))') == [
        f'* LIST (\\HasNoChildren) "/" "{BOX}"',
        f'* MYRIGHTS "{BOX}" l',
    ]
    assert world(CAT).ok('LIST "" *') == ['* LIST (\\HasNoChildren) "/" "INBOX"']
    share(world, "lr")
    assert ann.ok(f'LIST "" {BOX} RETURN (STATUS (MESSAGES))')[1] == f'* STATUS "{BOX}" (MESSAGES 3)'
    ann.ok(f'SUBSCRIBE "{BOX}"')
    assert ann.ok('LSUB "" *') == [f'* LSUB () "/" "{BOX}"']
    bob.ok(f"DELETEACL Work {ANN}")
    assert ann.ok('LSUB "" *') == [f'* LSUB (\\Noselect) "/" "{BOX}"']
    assert ann("ESEARCH IN (mailboxes INBOX personal subtree user) RETURN (ALL) ALL")[:-1] == []


def test_rights_are_asked_for_at_every_command(world: World) -> None:
    share(world, "lrs")
    ann = world(ANN, BOX)
    ann.ok("FETCH 1 BODY.PEEK[]")
    share(world, "l")
    lines = ann("FETCH 2 BODY.PEEK[]")
    assert lines[-1].startswith("* BYE") and not any("Body 2" in line for line in lines)


def test_negative_rights_and_anyone(world: World) -> None:
    share(world, "lr", "anyone")
    share(world, "r", "-" + ANN)
    assert world(CAT).ok(f'MYRIGHTS "{BOX}"') == [f'* MYRIGHTS "{BOX}" lr']
    assert world(ANN).ok(f'MYRIGHTS "{BOX}"') == [f'* MYRIGHTS "{BOX}" l']


def test_another_domain_is_another_world(world: World) -> None:
    share(world, "lr", "anyone")
    share(world, "lr", DAN)
    assert world(DAN)(f'SELECT "{BOX}"')[-1].startswith(NOT_THERE)
    wide = World(scope="server")
    wide.fill(BOB, "Work")
    share(wide, "lr", DAN)
    wide(DAN).ok(f'SELECT "{BOX}"')


def test_public_mailboxes() -> None:
    world = World(public=TEAM)
    world.fill(TEAM, "News")
    world(TEAM).ok("SETACL News anyone lrs")
    world(TEAM).ok(f"SETACL News {ANN} lrswipkxtea")
    assert '* LIST (\\HasNoChildren) "/" "Public/News"' in world(DAN).ok('LIST "" *')
    assert world(DAN)('SELECT "Public/News"')[-1].startswith("OK [READ-WRITE]")
    assert world(DAN)(f'SELECT "user/{TEAM}/News"')[-1].startswith(NOT_THERE)
    assert world(TEAM)('SELECT "Public/News"')[-1].startswith(NOT_THERE)
    ann = world(ANN)
    ann.ok("CREATE Public/News/Local")
    assert ann.ok("MYRIGHTS Public/News/Local") == ['* MYRIGHTS "Public/News/Local" lrswipkxteacd']
    ann.ok("RENAME Public/News/Local Public/News/Here")
    ann.ok(f"SETACL Public/News/Here {CAT} lr")
    assert world(TEAM).ok("MYRIGHTS News/Here") == ['* MYRIGHTS "News/Here" lrswipkxteacd']
    ann.ok("DELETE Public/News/Here")
    assert ann("CREATE Public/Top")[-1].startswith(REFUSED)


# -- what one has seen -------------------------------------------------------------------------------------------------------


def test_seen_is_the_readers_own(world: World) -> None:
    share(world, "lrsw")
    share(world, "lrs", CAT)
    ann, bob, cat = world(ANN, BOX), world(BOB, "Work"), world(CAT, BOX)
    assert ann.ok("STORE 1,2 +FLAGS (\\Seen \\Flagged)") == [
        "* 1 FETCH (FLAGS (\\Seen \\Flagged))",
        "* 2 FETCH (FLAGS (\\Seen \\Flagged))",
    ]
    bob.ok("STORE 3 +FLAGS (\\Seen)")
    assert bob.ok("NOOP") == []
    assert "* 1 FETCH (FLAGS (\\Flagged))" in bob.ok("FETCH 1:* FLAGS")
    assert cat.ok("SEARCH UNSEEN")[-1:] == ["* SEARCH 1 2 3"]
    assert ann.ok("SEARCH UNSEEN")[-1:] == ["* SEARCH 3"]
    assert ann.ok("STATUS INBOX (UNSEEN)") == ['* STATUS "INBOX" (UNSEEN 0)']
    assert world(ANN).ok(f'STATUS "{BOX}" (UNSEEN)') == [f'* STATUS "{BOX}" (UNSEEN 1)']
    assert bob.ok("SEARCH SEEN") == ["* SEARCH 3"]
    ann.ok("STORE 1:3 FLAGS ()")
    assert "* 3 FETCH (FLAGS (\\Seen))" in bob.ok("FETCH 1:* FLAGS")
    assert bob.ok("SEARCH FLAGGED") == ["* SEARCH"]


def test_what_was_seen_is_read_once_not_with_every_block(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(world, "lrs")
    ann = world(ANN, BOX, ImapLimits(rows=1))
    ann.ok("STORE 1:2 +FLAGS (\\Seen)")
    parse = Seen.parse
    parsed: list[str | None] = []

    def counted(text: str | None) -> Seen:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(Seen, "parse", counted)
    assert len(ann.ok("FETCH 1:* (FLAGS MODSEQ ENVELOPE)")) == 3
    assert len(parsed) <= 1


def test_seen_in_another_session_of_the_same_reader(world: World) -> None:
    share(world, "lrs")
    one, two = world(ANN), world(ANN)
    for client in (one, two):
        client.ok(f'SELECT "{BOX}" (CONDSTORE)')
    one.ok("FETCH 2 BODY[]")
    told = two.ok("NOOP")
    assert len(told) == 1 and "* 2 FETCH" in told[0] and "\\Seen" in told[0]
    modseq = int(told[0].split("MODSEQ (")[1].split(")")[0])
    assert two.ok(f"FETCH 1:* (FLAGS) (CHANGEDSINCE {modseq - 1})") == [
        f"* 2 FETCH (UID 2 FLAGS (\\Seen) MODSEQ ({modseq}))"
    ] or two.ok(f"FETCH 1:* (FLAGS) (CHANGEDSINCE {modseq - 1})") == [
        f"* 2 FETCH (FLAGS (\\Seen) MODSEQ ({modseq}))"
    ]
    assert "[MODIFIED 2]" in two(f"STORE 2 (UNCHANGEDSINCE {modseq - 1}) -FLAGS (\\Seen)")[-1]
    assert two(f"STORE 2 (UNCHANGEDSINCE {modseq}) -FLAGS (\\Seen)")[-1].startswith("OK")
    assert any("* 2 FETCH" in line and "FLAGS ()" in line for line in one.ok("NOOP"))


def test_resynchronisation_counts_what_was_seen(world: World) -> None:
    share(world, "lrst")
    ann = world(ANN)
    ann.ok("ENABLE QRESYNC")
    opened = ann.ok(f'SELECT "{BOX}"')
    modseq = next(int(line.split()[3].rstrip("]")) for line in opened if "HIGHESTMODSEQ" in line)
    validity = next(line.split()[3].rstrip("]") for line in opened if "UIDVALIDITY" in line)
    other = world(ANN, BOX)
    other.ok("STORE 3 +FLAGS (\\Seen)")
    other.ok("STORE 1 +FLAGS (\\Deleted)")
    world(BOB, "Work").ok("EXPUNGE")
    ann.ok("UNSELECT")
    told = ann.ok(f'SELECT "{BOX}" (QRESYNC ({validity} {modseq}))')
    assert "* VANISHED (EARLIER) 1" in told
    assert any("UID 3 FLAGS (\\Seen)" in line for line in told)


# -- copies and moves --------------------------------------------------------------------------------------------------------


def test_copies_in_all_directions(world: World) -> None:
    world(BOB).ok("CREATE Done")
    world.fill(ANN, "INBOX")
    share(world, "lrsit")
    share(world, "li", mailbox="Done")
    ann = world(ANN, BOX)
    ann.ok("STORE 1 +FLAGS (\\Seen \\Deleted)")
    assert "COPYUID" in ann("COPY 1:2 INBOX")[-1]
    assert "COPYUID" in ann(f'COPY 1 "user/{BOB}/Done"')[-1]
    assert ann("COPY 1 user/nobody@example.org/INBOX")[-1].startswith("NO [TRYCREATE]")
    ann.ok("SELECT INBOX")
    assert ann.ok("FETCH 4:5 FLAGS") == ["* 4 FETCH (FLAGS (\\Seen \\Deleted))", "* 5 FETCH (FLAGS ())"]
    ann.ok("STORE 1 +FLAGS (\\Seen \\Flagged)")
    ann.ok(f'COPY 1 "{BOX}"')
    ann.ok(f'SELECT "{BOX}"')
    assert ann.ok("FETCH 4 FLAGS") == ["* 4 FETCH (FLAGS (\\Seen))"]  # no right w: not \Flagged
    bob = world(BOB, "Done")
    assert bob.ok("FETCH 1 FLAGS") == ["* 1 FETCH (FLAGS ())"]  # neither s nor t there
    bob.ok("SELECT Work")
    assert bob.ok("FETCH 4 FLAGS") == ["* 4 FETCH (FLAGS ())"]


def test_moves_between_accounts(world: World) -> None:
    world.fill(ANN, "INBOX")
    share(world, "lrite")
    ann = world(ANN, BOX)
    lines = ann("MOVE 1:2 INBOX")
    assert lines[-1].startswith("OK") and "* 1 EXPUNGE" in lines
    ann.ok("SELECT INBOX")
    assert ann.ok(f'MOVE 1 "{BOX}"')[-1] == "* 1 EXPUNGE"
    assert ann.ok("STATUS INBOX (MESSAGES)") == ['* STATUS "INBOX" (MESSAGES 4)']
    assert world(BOB).ok("STATUS Work (MESSAGES DELETED)") == ['* STATUS "Work" (MESSAGES 2 DELETED 0)']


def test_a_message_that_somebody_else_took_is_not_doubled(world: World) -> None:
    """The other one expunges after our copy and before our claim."""
    share(world, "lrite")
    share(world, "lrite", CAT)
    ann, cat = world(ANN, BOX), world(CAT, BOX)
    appended = world.store.account(ANN).append

    def race(mailbox: str, messages: list[NewMessage], part_of: object) -> object:
        stored = appended(mailbox, messages)
        cat.ok("MOVE 1 INBOX")
        return stored

    owner = world.store.account(ANN)
    object.__setattr__(owner, "append", race)
    cat_first = cat.session
    assert cat_first is not None
    # The memory store has no threads: the other mover's command runs inside ours, without the guest's lock.
    ann.ok("MOVE 1:2 INBOX")
    assert world(ANN).ok("STATUS INBOX (MESSAGES)") == ['* STATUS "INBOX" (MESSAGES 1)']
    assert world(CAT).ok("STATUS INBOX (MESSAGES)") == ['* STATUS "INBOX" (MESSAGES 1)']
    assert world(BOB).ok("STATUS Work (MESSAGES)") == ['* STATUS "Work" (MESSAGES 1)']


def test_a_move_that_fails_leaves_the_owners_marks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    share(world, "lrite")
    bob = world(BOB, "Work")
    bob.ok("STORE 1 +FLAGS (\\Deleted)")
    owner, expunge = world.store.account(BOB), type(world.store.account(BOB)).expunge

    def failing(account: AccountStore, mailbox: str, uids: object = None) -> tuple[int, ...]:
        if mailbox == "Work":
            raise StoreUnavailable("broken")
        return expunge(account, mailbox, uids)

    monkeypatch.setattr(type(owner), "expunge", failing)
    assert world(ANN, BOX)("MOVE 1:2 INBOX")[-1].startswith("NO")
    monkeypatch.undo()
    assert world(BOB, "Work").ok("FETCH 1:3 FLAGS") == [
        "* 1 FETCH (FLAGS (\\Deleted))",
        "* 2 FETCH (FLAGS ())",
        "* 3 FETCH (FLAGS ())",
    ]


def test_who_may_expunge_removes_what_the_owner_marked_too(world: World) -> None:
    """RFC 4314 4: the right ``e`` is one to the mailbox, \\Deleted is everybody's; Dovecot does the same."""
    share(world, "lre")
    share(world, "lrt", CAT)
    bob, cat = world(BOB, "Work"), world(CAT, BOX)
    bob.ok("STORE 1 +FLAGS (\\Deleted)")
    cat.ok("STORE 2 +FLAGS (\\Deleted)")
    assert cat("EXPUNGE")[-1].startswith("NO [NOPERM]")
    ann = world(ANN, BOX)
    assert ann("STORE 3 +FLAGS (\\Deleted)")[-1].startswith("NO [NOPERM]")
    assert ann.ok("EXPUNGE") == ["* 1 EXPUNGE", "* 1 EXPUNGE"]
    assert world(BOB).ok("STATUS Work (MESSAGES)") == ['* STATUS "Work" (MESSAGES 1)']


def test_a_failed_copy_leaves_nothing(world: World) -> None:
    small = MemoryStore(FakeClock(), CountingIds(), lambda account: 900 if account == BOB else 0)
    world.store = small
    world.sharing = Sharing(Guests(small), MemoryShares())
    world.fill(BOB, "Work", 1)
    world.fill(ANN, "INBOX", 6)
    share(world, "lri")
    assert world(ANN, "INBOX")(f'COPY 1:* "{BOX}"')[-1].startswith("NO [OVERQUOTA]")
    assert world(BOB).ok("STATUS Work (MESSAGES)") == ['* STATUS "Work" (MESSAGES 1)']


def test_replace_changes_nothing_without_the_right_to_expunge(world: World) -> None:
    share(world, "lri")
    assert world(ANN, BOX)(f'REPLACE 1 "{BOX}" {{4+}}\r\nA: b')[-1].startswith(REFUSED)
    assert world(BOB).ok("STATUS Work (MESSAGES DELETED)") == ['* STATUS "Work" (MESSAGES 3 DELETED 0)']
    share(world, "lrite")
    world(ANN, BOX).ok(f'REPLACE 1 "{BOX}" {{4+}}\r\nA: b')
    assert world(BOB).ok("STATUS Work (MESSAGES DELETED)") == ['* STATUS "Work" (MESSAGES 3 DELETED 0)']


# -- annotations, quota, scripts ---------------------------------------------------------------------------------------------


def test_annotations(world: World) -> None:
    bob = world(BOB)
    bob.ok('SETMETADATA Work (/shared/comment "ours" /private/comment "bob\'s")')
    share(world, "lr")
    ann = world(ANN)
    asked = f'GETMETADATA (DEPTH infinity) "{BOX}" (/shared /private)'
    assert ann.ok(asked) == [f'* METADATA "{BOX}" (/shared/comment "ours")']
    assert ann(f'SETMETADATA "{BOX}" (/shared/comment "x")')[-1].startswith(REFUSED)
    ann.ok(f'SETMETADATA "{BOX}" (/private/comment "ann\'s")')
    assert ann.ok(asked) == [f'* METADATA "{BOX}" (/shared/comment "ours" /private/comment "ann\'s")']
    assert bob.ok("GETMETADATA Work /private/comment") == ['* METADATA "Work" (/private/comment "bob\'s")']
    share(world, "lrw")
    ann.ok(f'SETMETADATA "{BOX}" (/shared/comment NIL /shared/other "y")')
    assert bob.ok("GETMETADATA (DEPTH infinity) Work (/shared /private)") == [
        '* METADATA "Work" (/shared/other "y" /private/comment "bob\'s")'
    ]
    assert ann(f'SETMETADATA "{BOX}" (/shared/imapsieve/script "x")')[-1].startswith(REFUSED)
    assert ann(f'GETMETADATA "{BOX}" /.acl')[-1].startswith("BAD")


def test_whose_quota(world: World) -> None:
    share(world, "lri")
    assert world(ANN).ok(f'GETQUOTAROOT "{BOX}"') == [f'* QUOTAROOT "{BOX}"']


def test_news_of_a_shared_mailbox(world: World) -> None:
    share(world, "lr")
    ann = world(ANN, BOX)
    assert ann.session.place_of(BOX) == (BOB, "Work")
    assert ann.session.place_of("INBOX") == (ANN, "INBOX")
    world.store.account(BOB).append("Work", [NewMessage(message(9))])
    assert ann.ok("NOOP") == ["* 4 EXISTS"]
    other = world(ANN)
    other.ok("NOTIFY SET (subtree user (MessageNew MessageExpunge))")
    assert other.session.place_of(BOX) == (BOB, "Work")
    world.store.account(BOB).append("Work", [NewMessage(message(10))])
    other.session.mailbox_changed(BOX)
    assert b'* STATUS "user/bob@example.org/Work" (MESSAGES 5' in other.pump()


def test_personal_filters_leave_others_out(world: World) -> None:
    share(world, "lr")
    ann = world(ANN)
    assert ann.ok("ESEARCH IN (personal) RETURN (ALL) ALL") == []
    assert len(ann.ok("ESEARCH IN (subtree user) RETURN (ALL) ALL")) == 1


def test_a_mailbox_of_ones_own_comes_first(world: World) -> None:
    share(world, "lr")
    world.store.account(ANN).create(BOX)
    ann = world(ANN)
    assert ann.ok(f'STATUS "{BOX}" (MESSAGES)') == [f'* STATUS "{BOX}" (MESSAGES 0)']
    assert ann.ok(f'LIST "" {BOX}') == [f'* LIST (\\HasNoChildren) "/" "{BOX}"']
    assert ann.session.place_of(BOX) == (ANN, BOX)


def test_new_mailboxes_have_the_list_of_the_one_above(world: World) -> None:
    share(world, "lrk")
    world(BOB).ok("CREATE Work/Old")
    ann = world(ANN)
    ann.ok(f'CREATE "{BOX}/a/b"')
    for name in ("Old", "a", "a/b"):
        assert ann.ok(f'MYRIGHTS "{BOX}/{name}"') == [f'* MYRIGHTS "{BOX}/{name}" lrkc']


def test_status_of_an_unchanged_mailbox_takes_no_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    share(world, "lrs")
    ann, second = world(ANN), world(ANN)
    taken: list[str] = []
    both = shared.both

    def counted(
        one: AccountStore, name: str, other: AccountStore, other_name: str
    ) -> contextlib.AbstractContextManager[None]:
        taken.append(name)
        return both(one, name, other, other_name)

    monkeypatch.setattr(shared, "both", counted)

    def unseen() -> list[str]:
        return ann.ok(f'STATUS "{BOX}" (MESSAGES UNSEEN)')

    assert unseen() == unseen() == [f'* STATUS "{BOX}" (MESSAGES 3 UNSEEN 3)'] and len(taken) == 1
    second.ok(f'SELECT "{BOX}"')
    second.ok("STORE 1 +FLAGS (\\Seen)")
    taken.clear()
    assert unseen() == unseen() == [f'* STATUS "{BOX}" (MESSAGES 3 UNSEEN 2)'] and len(taken) == 1
    world.store.account(BOB).append("Work", [NewMessage(message(9))])
    assert unseen() == [f'* STATUS "{BOX}" (MESSAGES 4 UNSEEN 3)']
