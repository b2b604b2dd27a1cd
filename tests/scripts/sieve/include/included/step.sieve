require ["include", "variables"];
global "counter";
set "counter" "${counter}p";
