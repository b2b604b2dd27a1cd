require ["include", "variables"];
set "private" "inner";
set "global.shared" "${private}";
