require "fileinto";
fileinto "Second";
