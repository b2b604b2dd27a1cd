require "replace";
replace :mime "just text";
