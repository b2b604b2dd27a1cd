require ["fileinto", "imap4flags", "variables", "vacation", "envelope", "subaddress"];

# Mail from lists goes to a folder of the list's name.
if header :matches "List-Id" "*<*.*" {
    fileinto "Lists/${2}";
    stop;
}

# Bills are filed and flagged, and the book-keeper gets a copy.
if anyof (
    header :contains "subject" ["invoice", "payment due"],
    address :domain :is "from" ["billing.example.com", "shop.example.com"]
) {
    addflag "\\Flagged";
    fileinto "Bills";
    redirect "books@example.net";
    stop;
}

# ann+project@ goes to the project's folder.
if envelope :detail :matches "to" "?*" {
    fileinto "Projects/${0}";
    stop;
}

vacation :days 7 :subject "Away until Monday" "I read my mail again on Monday.";
