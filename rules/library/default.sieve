# What people get who have no script of their own: spam goes to Junk, all else to INBOX.
require ["fileinto", "mailbox", "spamtest", "relational", "comparator-i;ascii-numeric"];

if anyof (header :is "X-Spam-Flag" "YES", spamtest :value "ge" :comparator "i;ascii-numeric" "10") {
    fileinto :create "Junk";
}
