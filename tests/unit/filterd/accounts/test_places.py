"""The folders of an account are where the store looks, too."""

from pathlib import Path

from filterd.accounts.places import account_folder, database_path, mail_root, scripts_of
from filterd.config.load import parse
from filterd.ports import SystemClock, SystemIds
from filterd.store.durable import RealDisk
from filterd.store.maildir import MaildirStore

TEXT = '[server]\nhostname = "mail.example.org"\ndata_dir = "/data"\n[[domain]]\nname = "example.org"\n'


def test_places() -> None:
    config = parse(TEXT)
    assert database_path(config) == "/data/accounts.db"
    assert mail_root(config) == "/data/mail"
    assert account_folder(config, "ann@example.org") == "/data/mail/example.org/ann"
    flat = parse(TEXT + '[store]\npath = "%{domain}/%{user}"\n')
    assert account_folder(flat, "ann@example.org") == "/data/example.org/ann"


def test_the_store_has_the_same_opinion() -> None:
    config = parse(TEXT)
    clock, ids = SystemClock(), SystemIds()
    store = MaildirStore(Path(mail_root(config)), "h", "crlf", lambda account: 0, clock, ids)
    assert store.path("ann@example.org") == account_folder(config, "ann@example.org")


def test_scripts_have_the_configured_limits(tmp_path: Path) -> None:
    text = TEXT.replace("/data", str(tmp_path)) + "[stage.sieve.limits]\nscripts = 1\n"
    scripts = scripts_of(parse(text), "ann@example.org", RealDisk())
    scripts.put("a", "keep;")
    assert (tmp_path / "mail/example.org/ann/sieve/a.sieve").read_text() == "keep;"
