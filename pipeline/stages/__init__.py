"""Every stage there is, in the order of the default incoming list (HOUSE item 7). One file, one line here."""

from __future__ import annotations

from pipeline.registry import StageEntry
from pipeline.stages.arc import ArcSettings, ArcStage
from pipeline.stages.clamav import ClamavSettings, ClamavStage
from pipeline.stages.dkim import DkimSettings, DkimStage
from pipeline.stages.dmarc import DmarcSettings, DmarcStage
from pipeline.stages.dnsbl import DnsblSettings, DnsblStage
from pipeline.stages.greylist import GreylistSettings, GreylistStage
from pipeline.stages.milters import MiltersSettings, MiltersStage
from pipeline.stages.privacy import PrivacySettings
from pipeline.stages.spamassassin import SpamassassinSettings, SpamassassinStage
from pipeline.stages.spf import SpfSettings, SpfStage
from pipeline.stages.srs import SrsSettings

STAGES: tuple[StageEntry, ...] = (
    StageEntry("spf", SpfSettings, SpfStage, "May this client send for that domain? RFC 7208."),
    StageEntry("dkim", DkimSettings, DkimStage, "Signatures of the sending domains, RFC 6376."),
    StageEntry("arc", ArcSettings, ArcStage, "The chain of those who handed the message on, RFC 8617."),
    StageEntry("dmarc", DmarcSettings, DmarcStage, "What the owner of the From domain wants, RFC 7489."),
    StageEntry("dnsbl", DnsblSettings, DnsblStage, "Block lists of the client and its names, RFC 5782."),
    StageEntry("greylist", GreylistSettings, GreylistStage, "New senders wait a little, RFC 6647."),
    StageEntry("clamav", ClamavSettings, ClamavStage, "Viruses, by clamd."),
    StageEntry("spamassassin", SpamassassinSettings, SpamassassinStage, "Spam, by spamd."),
    StageEntry("milters", MiltersSettings, MiltersStage, "Other people's mail filters, by their protocol."),
    StageEntry(
        "privacy", PrivacySettings, None, "What leaves tells less about the sender's machine.", "plan"
    ),
    StageEntry("srs", SrsSettings, None, "Our own reverse-path on what is sent on.", "plan"),
)
