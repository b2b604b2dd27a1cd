require "ihave";
error "out of beer";
