require "vnd.dovecot.pipe"; pipe "print";
