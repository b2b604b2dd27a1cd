"""Threads of messages. Specification: RFC 5256 section 3, draft-ietf-morg-inthread-01 (REFS). Complete; no recursion.

A thread is a forest of nodes; a dummy node (number 0) stands for a message that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rules.mail.header import unescape

_QUOTED = re.compile(r'(?<=[<.])"((?:[^"\\]|\\.)*+)"(?=[.@])', re.DOTALL)


class Node:
    """``sent`` in seconds UTC; ``base`` the folded base subject; ``parents`` message ids, the nearest last."""

    __slots__ = ("answer", "base", "children", "message_id", "number", "parent", "parents", "sent")

    def __init__(
        self, number: int, sent: int = 0, base: str = "", answer: bool = False, message_id: str = "",
        parents: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.number = number
        self.sent = sent
        self.base = base
        self.answer = answer
        self.message_id = message_id
        self.parents = parents
        self.parent: Node | None = None
        self.children: list[Node] = []


def unquoted(message_id: str) -> str:
    """RFC 5256 3: ids that differ only in how a word is quoted are the same."""
    if '"' not in message_id:
        return message_id
    return _QUOTED.sub(lambda word: unescape(word[1].encode()).decode(), message_id)


def ordered_subject(nodes: list[Node]) -> list[Node]:
    """Threads by base subject; the first by date is the root, the others its children."""
    groups: dict[str, list[Node]] = {}
    for node in sorted(nodes, key=_order):
        groups.setdefault(node.base, []).append(node)
    roots = []
    for first, *rest in groups.values():
        first.children = rest
        roots.append(first)
    return sorted(roots, key=_order)


def references(nodes: list[Node]) -> list[Node]:
    """RFC 5256 3, REFERENCES: steps 1 to 6."""
    roots = _prune(_link(nodes))
    return _sorted(_by_subject(_dated(roots)))


def refs(nodes: list[Node]) -> list[Node]:
    """Like REFERENCES without merging by subject; threads sorted by their newest message."""
    roots = _sorted(_dated(_prune(_link(nodes))))
    newest = {id(root): max(node.sent for node in _walk([root]) if node.number) for root in roots}
    return sorted(roots, key=lambda root: (newest[id(root)], _first(root).number))


def _order(node: Node) -> tuple[int, int]:
    return (node.sent, node.number)


def _link(nodes: list[Node]) -> list[Node]:
    """Steps 1 and 2: parents from References; the roots, dummies among them."""
    table: dict[str, Node] = {}
    own: dict[int, Node] = {}
    for node in nodes:
        key = node.message_id
        if not key or (key in table and table[key].number):
            key = f"\0{node.number}"  # no id of its own, or one that is taken
        known = table.get(key)
        if known is not None:  # a dummy so far
            known.number, known.sent, known.base, known.answer = (
                node.number,
                node.sent,
                node.base,
                node.answer,
            )
            own[node.number] = known
        else:
            table[key] = own[node.number] = node
    for node in nodes:
        this = own[node.number]
        above: Node | None = None
        for name in node.parents:
            parent = table.get(name)
            if parent is None:
                parent = table[name] = Node(0)
            if above is not None and parent.parent is None:
                _adopt(above, parent)
            above = parent
        if above is not None and above is not this:
            _disown(this)
            _adopt(above, this)
    return [node for node in table.values() if node.parent is None]


def _adopt(parent: Node, child: Node) -> None:
    """Unless that would close a circle."""
    at: Node | None = parent
    while at is not None:
        if at is child:
            return
        at = at.parent
    child.parent = parent
    parent.children.append(child)


def _disown(child: Node) -> None:
    if child.parent is not None:
        child.parent.children.remove(child)
        child.parent = None


def _walk(roots: Iterable[Node]) -> list[Node]:
    """Every node, parents before children."""
    out = list(roots)
    for node in out:
        out.extend(node.children)
    return out


def _prune(roots: list[Node]) -> list[Node]:
    """Step 3: dummies without children go; those with children give them to their parent, at the root only a single one."""
    for node in reversed(_walk(roots)):
        kept: list[Node] = []
        for child in node.children:
            if child.number or not child.children:
                kept += [child] if child.number else []
            else:
                for grandchild in child.children:
                    grandchild.parent = node
                kept += child.children
        node.children = kept
    out: list[Node] = []
    for root in roots:
        if root.number or len(root.children) > 1:
            out.append(root)
        elif root.children:
            root.children[0].parent = None
            out.append(root.children[0])
    return out


def _dated(roots: list[Node]) -> list[Node]:
    """Step 4: a dummy root counts with the date of its first child."""
    for root in roots:
        if not root.number:
            root.children.sort(key=_order)
            root.sent = root.children[0].sent
    return sorted(roots, key=lambda root: (root.sent, _first(root).number))


def _first(root: Node) -> Node:
    return root if root.number else root.children[0]


def _by_subject(roots: list[Node]) -> list[Node]:
    """Step 5: roots with the same base subject become one thread."""
    table: dict[str, Node] = {}
    for root in roots:
        base = _first(root).base
        if not base:
            continue
        known = table.get(base)
        if known is None or (known.number and not root.number) or (known.answer and not _first(root).answer):
            if known is None or known.number:
                table[base] = root
    out: list[Node] = []
    merged: dict[int, Node] = {}
    for root in roots:
        base = _first(root).base
        known = table.get(base) if base else None
        if known is None or known is root:
            out.append(root)
            continue
        target = merged.get(id(known), known)
        if not target.number and not root.number:
            target.children += root.children
        elif not target.number or (root.answer and not target.answer):
            target.children.append(root)
        else:
            dummy = Node(0, min(target.sent, root.sent), base)
            dummy.children = [target, root]
            merged[id(known)] = dummy
            if target in out:
                out[out.index(target)] = dummy
    # A root met before the one it merges with was already put in its place; dummies stand where the known root stood.
    return [merged.get(id(root), root) for root in out]


def _sorted(roots: list[Node]) -> list[Node]:
    """Step 6."""
    for node in _walk(roots):
        node.children.sort(key=lambda child: (child.sent, _first(child).number))
    return _dated(roots)


def render(roots: list[Node]) -> bytes:
    """(2)(3 6 (4 23)(44 7 96)): a run without branches is written flat."""
    out: list[bytes] = []
    work: list[Node | bytes] = []
    for root in reversed(roots):
        work += [b")", root, b"("]
    space = False
    while work:
        item = work.pop()
        if isinstance(item, bytes):
            out.append(item)
            space = False
            continue
        if item.number:
            out.append(b" %d" % item.number if space else b"%d" % item.number)
            space = True
        children = item.children
        if len(children) == 1 and item.number:
            work.append(children[0])
        elif children:
            if item.number:
                out.append(b" ")
            for child in reversed(children):
                work += [b")", child, b"("]
    return b"".join(out)
