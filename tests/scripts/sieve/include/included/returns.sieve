require ["include", "variables"];
global "counter";
set "counter" "before";
if true { return; }
set "counter" "behind";
