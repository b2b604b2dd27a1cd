require ["fileinto", "copy"];
fileinto :copy "First";
