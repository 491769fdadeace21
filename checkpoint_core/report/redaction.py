"""What must not leave the user's machine: home folders, user names and tokens; pure.

The flags are sd-scripts' (``library/train_util.py``: ``--huggingface_token``, ``--wandb_api_key``); argparse takes
any unambiguous beginning of them, so beginnings are covered too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SECRET = "[redacted]"
USER = "[user]"
HOME = "~"

#: A shell's word: quoted pieces and bare ones side by side, an unbalanced quote too. Never another flag.
_WORD = r"""(?!--[A-Za-z])(?:"(?:[^"\\\r\n]|\\.)*"|'[^'\r\n]*'|[\\^].|\S)+"""
#: Between a flag and its value: ``=``, or white space that may hold continuation marks.
_GAP = r"""(?:["']?\s*=\s*|["']?(?:\s|[\\^]\r?\n)+)"""
_SECRET_FLAG = (
    r"--(?:hu(?:g|gg|ggi|ggin|gging|ggingf|ggingfa|ggingfac|ggingface|ggingface_t\w*)?"
    r"|wa(?:n|nd|ndb|ndb_a\w*)?|[\w-]*(?:token|api[_-]?key|secret|passw(?:or)?d))"
)
_SECRET_NAME = r"[\w-]*(?:(?<![A-Za-z])token|[_-]token|api[_-]?key|access[_-]?key|secret|passw(?:or)?d)"

_SECRETS = (
    # "--flag=value" as one quoted word: all of it up to the closing quote.
    re.compile(rf"""(?P<kept>(?P<quote>["']){_SECRET_FLAG}=)(?:(?!(?P=quote))[^\r\n])+""", re.IGNORECASE),
    re.compile(rf"(?P<kept>(?<![\w-]){_SECRET_FLAG}{_GAP}){_WORD}", re.IGNORECASE),
    # cmd's  set "NAME=value"  before  NAME=value, key: value and key = "value".
    re.compile(rf"""(?P<kept>\bset\s+"{_SECRET_NAME}=)[^"\r\n]*""", re.IGNORECASE),
    re.compile(rf"""(?P<kept>(?<![\w-]){_SECRET_NAME}["']?\s*[=:]\s*){_WORD}""", re.IGNORECASE),
    re.compile(r"(?P<kept>\bbearer\s+)[\w.~+/=-]+", re.IGNORECASE),
    re.compile(r"(?P<kept>\bwandb\b[^\r\n]{0,120}?\b)[0-9a-f]{40}\b", re.IGNORECASE),
    re.compile(r"(?P<kept>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://)[^\s/@\"']+(?=@)", re.IGNORECASE),
    re.compile(r"(?P<kept>[?&](?:[\w-]*token|api_?key|key|sig|[\w-]*signature)=)[^\s&\"'#]+", re.IGNORECASE),
    # Tokens that tell by their own look: Hugging Face, Weights & Biases, GitHub, OpenAI.
    re.compile(r"(?P<kept>)(?:hf_|api_org_)[A-Za-z0-9]{20,}"),
    re.compile(r"(?P<kept>)(?:wandb_v\d_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_-]{20,}"),
)

_HOMES = (
    # Windows allows spaces in a user's name; then the folder must go on, or the name ends at the space.
    re.compile(
        r"(?<!\w)(?:[A-Z]:|/mnt/[a-z]|/[a-z](?=/Users/))[\\/]{1,2}Users[\\/]{1,2}"
        r"""(?:[^\\/:*?"'<>|\s]+(?:[ ][^\\/:*?"'<>|\s-][^\\/:*?"'<>|\s]*)*(?=[\\/])|[^\\/:*?"'<>|\s]+)""",
        re.IGNORECASE,
    ),
    re.compile(r"""(?<![\w.~-])/(?:home|Users)/[^\\/:*?"'<>|\s`$;,)]+"""),
)
#: The same folder below another, such as a mounted disk's: its place still tells something, the name does not.
_NESTED_HOME = re.compile(r"""([\\/](?:home|Users)[\\/]{1,2})[^\\/:*?"'<>|\s`$;,)\[]+""", re.IGNORECASE)
#: Names that say nothing about a person.
_IMPERSONAL = frozenset({"", "root"})


@dataclass(frozen=True)
class Redactor:
    """Takes secrets and names out of text.

    :param homes: home folders that are replaced wherever they stand.
    :param users: user names that are replaced wherever they are a whole part of a path.
    """

    homes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    def text(self, text: str) -> str:
        """The text without secrets; what was not secret is as it was."""
        for pattern in _SECRETS:
            text = pattern.sub(rf"\g<kept>{SECRET}", text)
        for home in sorted(filter(_is_folder, self.homes), key=len, reverse=True):
            text = re.sub(rf"(?<![\w.~-]){_either_slash(home)}(?![\w.-])", HOME, text)
        for pattern in _HOMES:
            text = pattern.sub(HOME, text)
        text = _NESTED_HOME.sub(rf"\g<1>{USER}", text)
        for user in set(self.users) - _IMPERSONAL:
            text = re.sub(rf"(?<=[\\/]){re.escape(user)}(?![\w.-])", USER, text, flags=re.IGNORECASE)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value with every string in it redacted, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(entry) for key, entry in value.items()}
        if isinstance(value, Iterable):
            return [self.value(entry) for entry in value]
        return value

    def data(self, data: bytes) -> bytes | None:
        """A text file's bytes redacted, as UTF-8; ``None`` for what is not text, which nobody can redact."""
        text = _decoded(data)
        return None if text is None else self.text(text).encode("utf-8", "surrogateescape")


def _is_folder(home: str) -> bool:
    """Whether a home is worth replacing: a container's may be the root of everything."""
    return len(home.strip("\\/")) > 1


def _either_slash(path: str) -> str:
    """A pattern for a path with its separators written either way, or doubled as in JSON."""
    parts = [re.escape(part) for part in re.split(r"[\\/]+", path.strip("\\/"))]
    lead = r"[\\/]" if path[0] in "\\/" else ""
    return lead + r"[\\/]{1,2}".join(parts)


def _decoded(data: bytes) -> str | None:
    """The text of a file; a UTF-16 file would hide its secrets from patterns for UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            return None
    return None if b"\0" in data else data.decode("utf-8", "surrogateescape")
