require ["foreverypart", "mime", "variables", "include"];
global "visited";
foreverypart {
    if header :mime :matches "x-part" "*" { set "visited" "${visited}${1}"; }
    return;
}
