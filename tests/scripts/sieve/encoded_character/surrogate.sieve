require "encoded-character";
redirect "${unicode:D800}@example.org";
