require "index";
if header :last "subject" "a" { discard; }
