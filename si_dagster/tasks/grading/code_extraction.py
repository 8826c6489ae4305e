"""The program in a completion: fenced, bare, or among chat.

Text is cut, never changed: no name is repaired and no import added. It does not run or judge the code, and a
completion whose lines never parse is given back as it stands, so that the failure is the program's own.
"""

import ast
import re
from collections.abc import Set as AbstractSet

from si_dagster.tasks.grading.extraction import Extraction
from si_dagster.tasks.grading.syntax import parsed

_FENCE = re.compile(
    r"^([ \t]*)(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:^[ \t]*\2[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_END = re.compile(
    r"\[DONE\]|<\|(?:im_end|endoftext|eot_id|end_of_text)\|>|</s>|<end_of_turn>|^You are an expert Python",
    re.MULTILINE,
)
_CODE_LINE = re.compile(r"(?:def|class|import|from|async def)\s|@\w|#|[A-Za-z_][\w, ]*\s*=[^=]")
_LANGUAGES = {"", "python", "py", "python3"}
MAX_LINES = 400


def strict_code(text: str) -> Extraction | None:
    """The program where the completion is nothing else: bare code up to [DONE], or one fenced block.

    >>> strict_code("def f(x):\\n    return x\\n[DONE]").rule
    'bare'
    """
    part = _END.split(text, maxsplit=1)[0].removeprefix("[BEGIN]").strip("\n").rstrip()
    fences = [*_FENCE.finditer(part)]
    if len(fences) == 1 and fences[0][0].strip() == part.strip():
        return Extraction(_dedented(fences[0]), "fenced")
    return Extraction(part, "bare") if part.strip() and not fences and _parses(part) else None


def flexible_code(text: str, entry_points: AbstractSet[str] = frozenset()) -> Extraction | None:
    """The program a person would copy out of the completion.

    The first Python block that defines what the tests call, else all blocks together, else the longest run of
    lines that parses, starting at the first line that looks like code.

    Args:
        text: The completion.
        entry_points: Names the tests call.

    Examples:
        >>> flexible_code("Sure!\\n```python\\ndef f(x):\\n    return x\\n```\\nHope it helps.", {"f"}).rule
        'fenced'
        >>> flexible_code("Here it is: def\\ndef f(x):\\n    return x\\nThis returns x.").answer
        'def f(x):\\n    return x'
    """
    part = _END.split(text.removeprefix("[BEGIN]"), maxsplit=1)[0]
    blocks = [_dedented(match) for match in _FENCE.finditer(part) if match[3].lower() in _LANGUAGES]
    blocks = [_parsing_run(block) or block for block in blocks if block.strip()]
    defining = [block for block in blocks if _defines(block, entry_points)]
    if entry_points and defining:
        return Extraction(_with_imports(defining[0], blocks), "fenced")
    if blocks and not _defines(_before_fence(part), entry_points):
        joined = "\n\n".join(blocks)
        return Extraction(joined if _parses(joined) else blocks[0], "fenced")
    run = _parsing_run(_before_fence(part) if blocks else part)
    if run:
        return Extraction(run, "bare" if run.strip() == part.strip() else "lines")
    return Extraction(part.strip(), "whole") if part.strip() else None


def normal_code(code: str) -> str:
    """One spelling of equal programs: comments, blank lines and quotes aside; unparsable code as it is."""
    try:
        return ast.unparse(parsed(code))
    except (SyntaxError, RecursionError):
        return code.strip()


def _dedented(fence: re.Match[str]) -> str:
    indent = fence[1]
    lines = fence[4].split("\n")
    return "\n".join(line.removeprefix(indent) for line in lines).rstrip()


def _before_fence(part: str) -> str:
    fence = _FENCE.search(part)
    return part[: fence.start()] if fence else part


def _defines(block: str, names: AbstractSet[str]) -> bool:
    wanted = "|".join(map(re.escape, sorted(names)))
    defined = rf"^(?:(?:async )?def|class)\s+(?:{wanted})\b|^(?:{wanted})\s*="
    return bool(wanted) and re.search(defined, block, re.MULTILINE) is not None


def _with_imports(chosen: str, blocks: list[str]) -> str:
    """Blocks before the chosen one that hold imports and definitions it may need."""
    before = blocks[: blocks.index(chosen)]
    needed = [
        block
        for block in before
        if re.search(r"^(?:import|from|def|class)\s", block, re.M) and _parses(block)
    ]
    return "\n\n".join([*needed, chosen])


def _parses(code: str) -> bool:
    try:
        parsed(code)
    except (SyntaxError, RecursionError):
        return False
    return True


def _parsing_run(text: str) -> str | None:
    """The lines from the first that looks like code to the last with which they parse."""
    lines = text.replace("\r\n", "\n").split("\n")[:MAX_LINES]
    starts = [number for number, line in enumerate(lines) if _CODE_LINE.match(line)]
    for start in starts[:10]:
        end = len(lines)
        while end > start:
            run = "\n".join(lines[start:end])
            try:
                parsed(run)
            except SyntaxError as error:
                # Lines behind the error cannot repair it; an open bracket is told where it opens.
                end = min(end - 1, start + max((error.lineno or 1) - 1, 0)) if _closed(error) else end - 1
            else:
                if re.search(r"^(?:async def|def|class|import|from)\s|=", run, re.M):
                    return run.rstrip()
                break
    return None


def _closed(error: SyntaxError) -> bool:
    return "never closed" not in str(error) and "unterminated" not in str(error) and "EOF" not in str(error)
