# What people get who have no script of their own: spam goes to Junk, all else to INBOX.
require ["fileinto", "mailbox"];

if header :is "X-Spam-Flag" "YES" {
    fileinto :create "Junk";
}
