require "vnd.dovecot.pipe"; pipe "/bin/sh"; pipe "../sh"; pipe "";
