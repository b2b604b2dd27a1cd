require ["fileinto", "no-such-thing"];
# 1 above: an unknown capability
elsif true { keep; }            # 2: without an if
keep "argument";                # 3
fileinto;                       # 4
unknown_command;                # 5
if unknown_test { stop; }       # 6
