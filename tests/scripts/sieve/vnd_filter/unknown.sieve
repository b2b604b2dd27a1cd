require "vnd.dovecot.filter"; filter "nowhere";
