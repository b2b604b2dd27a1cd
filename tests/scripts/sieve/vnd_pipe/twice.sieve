require "vnd.dovecot.pipe"; pipe "print"; pipe "print";
