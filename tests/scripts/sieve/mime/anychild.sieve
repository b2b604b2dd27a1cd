require "mime";
if header :anychild "subject" "a" { discard; }
