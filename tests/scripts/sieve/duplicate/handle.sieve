require "duplicate";
if duplicate :handle "other" :header "message-id" { discard; }
