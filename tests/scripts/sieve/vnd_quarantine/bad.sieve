require "vnd.filterd.quarantine";
quarantine 5;
quarantine;
quarantine "a" "b";
