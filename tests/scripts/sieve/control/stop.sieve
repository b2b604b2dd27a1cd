require "fileinto";
stop;
fileinto "Nowhere";
