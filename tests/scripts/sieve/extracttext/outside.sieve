require ["extracttext", "variables"];
extracttext "a";
