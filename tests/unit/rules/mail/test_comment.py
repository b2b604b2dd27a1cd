"""Comments against a reader that goes octet by octet."""

import time

from hypothesis import given
from hypothesis import strategies as st

from rules.mail import comment, limits

pieces = st.lists(
    st.sampled_from([b"(", b")", b"\\", b"a", b"(" * 40, b")" * 40, b"(" * 101, b")" * 101, b"x" * 900]),
    max_size=40,
)


def slowly(value: bytes) -> comment.Comment:
    depth = deepest = 0
    at = 0
    while at < len(value):
        if value[at : at + 1] == b"\\":
            at += 1
        elif value[at : at + 1] == b"(":
            depth += 1
            deepest = max(deepest, depth)
        elif value[at : at + 1] == b")":
            depth -= 1
            if depth == 0:
                return comment.Comment(at + 1, deepest > limits.COMMENT_DEPTH, True)
        at += 1
    return comment.Comment(len(value), deepest > limits.COMMENT_DEPTH, False)


@given(pieces)
def test_as_octet_by_octet(rest: list[bytes]) -> None:
    value = b"(" + b"".join(rest)
    expected = slowly(value)
    assert comment.read(comment.harmless(value), 0) == expected
    shallow = comment.shallow_end(value, 0)
    assert shallow in (0, expected.end)
    if value[: expected.end].count(b"(") <= 4:
        assert bool(shallow) == expected.closed


def test_harmless_keeps_every_offset() -> None:
    assert comment.harmless(b"(a\\\\\\)\\b)") == b"(axxxx\\b)"
    assert comment.harmless(b"(a)") == b"(a)"


def test_depth_costs_no_step_per_octet() -> None:
    """A fiftieth of what a loop over the octets in C costs, asserted as a third."""
    value = b"(" * 1_000_000 + b")" * 1_000_000

    def cpu(times: int, deep: bool) -> float:
        best = 9.0
        for _ in range(times):
            began = time.process_time()
            if deep:
                assert comment.read(comment.harmless(value), 0) == comment.Comment(2_000_000, True, True)
            else:
                sum(map(int, value))
            best = min(best, time.process_time() - began)
        return best

    assert cpu(3, True) < cpu(3, False) / 3
