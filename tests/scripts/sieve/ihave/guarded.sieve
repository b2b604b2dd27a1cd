require "ihave";
if ihave "vnd.nobody.nothing" {
    nothing :at :all "x";
} elsif ihave "fileinto" {
    fileinto "Here";
}
