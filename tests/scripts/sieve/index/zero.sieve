require "index";
if header :index 0 "subject" "a" { discard; }
