require ["vnd.dovecot.execute", "variables"]; execute :pipe :input "x" "a"; execute :output "1" "a"; execute "a/b"; execute "${x}";
