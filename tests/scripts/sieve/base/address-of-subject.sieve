if address "subject" "a@b" { discard; }
