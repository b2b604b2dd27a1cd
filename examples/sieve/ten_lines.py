"""Sieve as a library: compile a script, run it on a mail, look at what it decided. Nothing is stored or sent."""

from rules.compiler import compile_script
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.mail.message import Message
from rules.simplehost import SimpleHost

script = compile_script('require "fileinto"; if header :contains "subject" "invoice" { fileinto "Bills"; }')
mail = Message(
    b"From: shop@example.com\r\nTo: ann@example.org\r\nSubject: Your invoice\r\n\r\nPlease pay.\r\n"
)
result = run([script], mail, ScriptEnvelope("shop@example.com", "ann@example.org"), SimpleHost())
for action in result.actions:
    print(action)
