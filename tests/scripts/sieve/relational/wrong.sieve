require "relational";
if header :value "above" "subject" "a" { discard; }
