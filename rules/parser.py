"""From tokens to a syntax tree, by recursive descent with bounded depth.

Specification: RFC 5228 section 8.2. Invariants: never raises on any text; every fault is reported and parsing
goes on at the next statement (behind the next semicolon, or behind the block that belongs to the broken
statement); every node's ``shape`` is filled in. What the commands mean is the checker's business.
"""

from __future__ import annotations

from rules import lexer
from rules.ast import Argument, Command, Number, Script, Strings, Tag, Test
from rules.errors import ScriptError, line_column
from rules.lexer import BAD, END, IDENTIFIER, NUMBER, PUNCTUATION, STRING, TAG, Fault
from rules.limits import DEFAULT, Limits

_NAMES = {
    BAD: "an overlong name",
    END: "the end of the script",
    IDENTIFIER: "a name",
    TAG: "a tag",
    STRING: "a string",
    NUMBER: "a number",
    PUNCTUATION: "",
}


class _Broken(Exception):
    """Internal: this statement cannot be parsed any further; the fault is already noted."""


def parse(text: str, limits: Limits = DEFAULT) -> tuple[Script, list[ScriptError]]:
    """The tree of everything that could be parsed, and the faults, in the order of the text."""
    if len(text) > limits.script_size:
        message = f"the script is longer than {limits.script_size} characters"
        return Script(text, []), [
            ScriptError(1, 1, "script-size", message, "split it with include, or shorten it")
        ]
    parser = Parser(text, limits)
    commands = parser.script()
    faults = sorted(parser.faults, key=lambda fault: fault.pos)[: limits.errors]
    errors: list[ScriptError] = []
    for fault in faults:
        line, column = line_column(text, fault.pos)
        errors.append(ScriptError(line, column, fault.code, fault.message, fault.cure))
    return Script(text, commands), errors


class Parser:
    """One parse of one text."""

    __slots__ = (
        "_depth",
        "_index",
        "_inner",
        "_kinds",
        "_limits",
        "_positions",
        "_shapes",
        "_tokens",
        "_unclosed",
        "_values",
        "faults",
    )

    def __init__(self, text: str, limits: Limits) -> None:
        self._limits = limits
        self._tokens = lexer.tokenize(text, limits)
        self._kinds = self._tokens.kinds
        self._values = self._tokens.values
        self._positions = self._tokens.positions
        self._index = 0
        self._depth = 0  # of blocks
        self._inner = 0  # of tests in the current statement
        self._unclosed = False
        self._shapes: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.faults: list[Fault] = self._tokens.faults

    def script(self) -> list[Command]:
        """start = commands"""
        commands: list[Command] = []
        while True:
            self._commands(commands)
            if self._kinds[self._index] == END:
                return commands
            self._fault(self._index, "syntax", "} without a block that it could end", "remove it")
            self._index += 1

    def _fault(self, index: int, code: str, message: str, cure: str = "") -> None:
        if self._kinds[index] == BAD or (self._kinds[index] == END and self._tokens.cut):
            return  # only what follows from a fault that is told
        if len(self.faults) <= self._limits.errors:
            self.faults.append(Fault(self._positions[index], code, message, cure))

    def _seen(self) -> str:
        """The current token for a message."""
        kind, value = self._kinds[self._index], self._values[self._index]
        if kind == PUNCTUATION:
            return value
        if kind == IDENTIFIER:
            return f'"{value}"'
        return f":{value}" if kind == TAG else _NAMES[kind]

    def _commands(self, commands: list[Command]) -> None:
        """Commands up to a closing brace or the end, which stays unread."""
        kinds, values = self._kinds, self._values
        depth = self._depth
        while True:
            kind = kinds[self._index]
            if kind == END or (kind == PUNCTUATION and values[self._index] == "}"):
                return
            begin = self._index
            try:
                commands.append(self._command())
            except _Broken:
                self._depth = depth
                # A nameless command stands for the broken statement, so that nobody trips over the gap.
                commands.append(Command("", self._positions[begin], shape=(values[begin],)))
                self._recover()

    def _recover(self) -> None:
        """Moves behind the broken statement: its semicolon, or the block that ends it."""
        kinds, values = self._kinds, self._values
        depth = 0
        while kinds[self._index] != END:
            if kinds[self._index] == PUNCTUATION:
                value = values[self._index]
                if value == "{":
                    depth += 1
                elif value == "}":
                    if depth == 0:
                        return
                    depth -= 1
                    if depth == 0:
                        self._index += 1
                        return
                elif value == ";" and depth == 0:
                    self._index += 1
                    return
            self._index += 1

    def _command(self) -> Command:
        index = self._index
        if self._kinds[index] != IDENTIFIER:
            if self._values[index] == ";" and self._kinds[index] == PUNCTUATION:
                self._fault(index, "syntax", "a semicolon without a command", "remove it")
            else:
                self._fault(
                    index,
                    "syntax",
                    f"a command was expected, not {self._seen()}",
                    "begin with a command's name",
                )
            raise _Broken
        self._inner = 0
        command = Command(self._values[index], self._positions[index])
        self._index += 1
        self._arguments(command)
        kind, value = self._kinds[self._index], self._values[self._index]
        if kind == PUNCTUATION and value == ";":
            self._index += 1
        elif kind == PUNCTUATION and value == "{":
            self._index += 1
            self._block(command, index)
        else:
            self._expected_end(command)
        return command

    def _expected_end(self, command: Command) -> None:
        """No semicolon where one must be. When a new statement clearly begins here, only that is reported."""
        index = self._index
        if self._kinds[index] == END or (self._kinds[index] == PUNCTUATION and self._values[index] == "}"):
            self._fault(index, "semicolon", f'"{command.name}" has no semicolon at its end', "add ;")
            return
        message = f'after "{command.name}" and its arguments a ; or a block was expected, not {self._seen()}'
        listed = self._kinds[index] == PUNCTUATION and self._values[index] == ","
        cure = "several tests stand in (...) behind anyof or allof, strings in [...]"
        self._fault(index, "syntax", message, cure if listed else "add ; at the end of the statement")
        raise _Broken

    def _block(self, command: Command, index: int) -> None:
        self._depth += 1
        if self._depth > self._limits.nesting:
            message = f"blocks are nested deeper than {self._limits.nesting}"
            self._fault(index, "nesting", message, "use elsif, anyof or allof instead of inner blocks")
            self._skip_block()
            command.block = []
            self._depth -= 1
            return
        block: list[Command] = []
        self._commands(block)
        command.block = block
        self._depth -= 1
        if self._kinds[self._index] == END:
            if not self._unclosed:  # the innermost one is told, the others follow from it
                message = f'the block of "{command.name}" has no end'
                self._fault(index, "unclosed-block", message, "close it with }")
            self._unclosed = True
            return
        self._index += 1

    def _skip_block(self) -> None:
        depth = 1
        while self._kinds[self._index] != END:
            if self._kinds[self._index] == PUNCTUATION:
                value = self._values[self._index]
                depth += (value == "{") - (value == "}")
            self._index += 1
            if depth == 0:
                return

    def _arguments(self, node: Command | Test) -> None:
        """arguments = *argument [ test / test-list ]"""
        kinds, values, positions = self._kinds, self._values, self._positions
        args: list[Argument] = []
        shape: list[str] = []
        index = self._index
        while True:
            kind = kinds[index]
            if kind == STRING:
                args.append(Strings((values[index],), positions[index]))
                shape.append("S")
                index += 1
            elif kind == TAG:
                args.append(Tag(values[index], positions[index]))
                shape.append(":" + values[index])
                index += 1
            elif kind == NUMBER:
                args.append(Number(self._tokens.numbers[index], positions[index]))
                shape.append("N")
                index += 1
            elif kind == PUNCTUATION and values[index] == "[":
                self._index = index
                args.append(self._list())
                shape.append("L")
                index = self._index
            else:
                break
        self._index = index
        if args:
            node.args = args
            key = tuple(shape)
            node.shape = self._shapes.setdefault(key, key)
        if len(args) > self._limits.arguments:
            self._fault(
                index, "arguments", "too many arguments", f"a command takes at most {self._limits.arguments}"
            )
            raise _Broken
        if kind == IDENTIFIER:
            self._deeper()
            node.tests = (self._test(),)
            self._inner -= 1
        elif kind == PUNCTUATION and values[index] == "(":
            self._deeper()
            node.tests = self._tests()
            node.listed = True
            self._inner -= 1

    def _deeper(self) -> None:
        self._inner += 1
        if self._inner > self._limits.nesting:
            message = f"tests are nested deeper than {self._limits.nesting}"
            self._fault(self._index, "nesting", message, "use fewer inner tests")
            raise _Broken

    def _test(self) -> Test:
        index = self._index
        if self._kinds[index] != IDENTIFIER:
            self._fault(
                index, "syntax", f"a test was expected, not {self._seen()}", "write for example: header ..."
            )
            raise _Broken
        test = Test(self._values[index], self._positions[index])
        self._index = index + 1
        self._arguments(test)
        return test

    def _tests(self) -> list[Test]:
        """test-list = "(" test *("," test) ")" """
        tests: list[Test] = []
        opened = self._index
        self._index += 1
        while True:
            tests.append(self._test())
            kind, value = self._kinds[self._index], self._values[self._index]
            if kind == PUNCTUATION and value == ",":
                self._index += 1
                if len(tests) > self._limits.list_items:
                    self._fault(opened, "list-items", "the list of tests is too long", "split it up")
                    raise _Broken
                continue
            if kind == PUNCTUATION and value == ")":
                self._index += 1
                return tests
            self._fault(
                self._index,
                "syntax",
                f"in a list of tests , or ) was expected, not {self._seen()}",
                "close it with )",
            )
            raise _Broken

    def _list(self) -> Strings:
        """string-list = "[" string *("," string) "]" """
        kinds, values, positions = self._kinds, self._values, self._positions
        opened = self._index
        items: list[str] = []
        where: list[int] = []
        index = opened + 1
        while True:
            if kinds[index] != STRING:
                self._index = index
                empty = not items and values[index] == "]"
                message = (
                    "a list of strings is not empty"
                    if empty
                    else f"a string was expected, not {self._seen()}"
                )
                self._fault(index, "syntax", message, 'write ["one", "two"]')
                raise _Broken
            items.append(values[index])
            where.append(positions[index])
            index += 1
            if kinds[index] == PUNCTUATION and values[index] == ",":
                index += 1
                continue
            self._index = index
            if kinds[index] == PUNCTUATION and values[index] == "]":
                self._index = index + 1
                break
            self._fault(
                index,
                "syntax",
                f"in a list of strings , or ] was expected, not {self._seen()}",
                "close it with ]",
            )
            raise _Broken
        if len(items) > self._limits.list_items:
            self._fault(
                opened, "list-items", f"a list has at most {self._limits.list_items} strings", "split it up"
            )
            raise _Broken
        return Strings(tuple(items), positions[opened], True, tuple(where))
