"""An independent reading of how cmd.exe and a C program take a batch line apart, to test ours against.

Written from the rules as they are documented and not from the project's reader: phase by phase on plain
strings, where the project's reader makes one pass with offsets. Sources: "How does the Windows Command
Interpreter (CMD.EXE) parse scripts?" (Stack Overflow 4094699) and Microsoft's "Parsing C++ command-line
arguments".
"""

from __future__ import annotations

import re


def percent_phase(line: str) -> str:
    """Phase 1 for a script run without arguments and with no variables set: every name expands to nothing."""
    result = ""
    while line:
        if line.startswith("%%"):
            result, line = result + "%", line[2:]
        elif match := re.match(r"%(\*|[0-9]|~[fdpnxsatz]*[0-9])|%[^%]+%|%", line):
            line = line[match.end() :]
        else:
            result, line = result + line[0], line[1:]
    return result


def logical_lines(script: str) -> list[list[tuple[str, bool]]]:
    """Phase 2 without the operators: the lines after carets, each character with whether it stands as itself.

    A character that stands as itself was quoted or escaped; the others may be operators.
    """
    physical = [percent_phase(line) for line in script.replace("\r", "").removesuffix("\n").split("\n")]
    result: list[list[tuple[str, bool]]] = []
    index = 0
    while index < len(physical):
        line: list[tuple[str, bool]] = []
        rest = physical[index]
        index += 1
        quoted = escape = False
        while rest or (escape and index < len(physical)):
            if not rest:
                # The caret ate the line end: the next line's first character is escaped.
                rest = physical[index]
                index += 1
                if not rest:
                    raise ValueError("an empty line after a caret hands over a line feed")
            character, rest = rest[0], rest[1:]
            if escape:
                line.append((character, True))
                escape = False
            elif character == "^" and not quoted:
                escape = True
            else:
                quoted ^= character == '"'
                line.append((character, quoted or character == '"'))
        result.append(line)
    return result


def command_lines(script: str) -> list[str]:
    """What cmd hands to the programs of a script without blocks and conditions, redirections taken out."""
    commands: list[str] = []
    for line in logical_lines(script):
        command: list[tuple[str, bool]] = []
        while line:
            (character, itself), line = line[0], line[1:]
            if not itself and character in "<>":
                line = _without_target(command, line)
            elif not itself and character in "&|":
                commands.append("".join(each for each, _ in command))
                command = []
            else:
                command.append((character, itself))
        commands.append("".join(each for each, _ in command))
    return [command.strip(" \t") for command in commands if command.strip(" \t")]


def _without_target(command: list[tuple[str, bool]], line: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The rest of the line behind a redirection's target; a handle's digit is taken off the command."""
    if command and command[-1][0].isdigit() and (len(command) == 1 or command[-2][0] in " \t,;="):
        command.pop()
    if line[:1] == [(">", False)]:
        line = line[1:]
    if line[:1] == [("&", False)]:
        return line[2:]
    while line and line[0][0] in " \t,;=":
        line = line[1:]
    while line and (line[0][1] or line[0][0] not in " \t,;=&|<>"):
        line = line[1:]
    return line


def argv(command_line: str) -> list[str]:
    """The C runtime's argv of a command line, by its documented rules for backslashes and quotes."""
    words: list[str] = []
    rest = command_line.lstrip(" \t")
    while rest:
        word, quoted = "", False
        while rest and (quoted or rest[0] not in " \t"):
            match = re.match(r'(\\*)"', rest)
            if not match:
                word, rest = word + rest[0], rest[1:]
                continue
            count = len(match.group(1))
            word, rest = word + "\\" * (count // 2), rest[match.end() :]
            if count % 2:
                word += '"'
            elif quoted and rest.startswith('"'):
                word, rest = word + '"', rest[1:]
            else:
                quoted = not quoted
        words.append(word)
        rest = rest.lstrip(" \t")
    return words


def handed_to_accelerate(script: str) -> list[list[str]]:
    """The arguments of every `accelerate` that the script starts."""
    calls = [argv(line) for line in command_lines(script)]
    return [call[1:] for call in calls if call and call[0].lower() in ("accelerate", "accelerate.exe")]
