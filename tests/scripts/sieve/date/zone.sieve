require "date";
if currentdate :zone "+5" "hour" "1" { discard; }
