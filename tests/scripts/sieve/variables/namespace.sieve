require "variables";
set "a" "${no.such}";
