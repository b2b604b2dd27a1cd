require "reject";
reject "no";
reject "no, no";
