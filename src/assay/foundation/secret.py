"""Recognise passwords, keys and tokens by the name of a setting and by the form of a value. Pure.

A value is hidden in whole where its name tells (`PGPASSWORD`, `--api-key`, `GH_PAT`), and in part where its shape tells
(`https://user:word@host`, `hf_...`, a private key).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

__all__ = ["HIDDEN", "has_password", "hide", "is_secret_name", "redacted", "values_of", "words_without"]

HIDDEN: Final = "***"

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ANYWHERE: Final = frozenset({
    "SECRET", "SECRETS", "CREDENTIAL", "CREDENTIALS", "CREDS", "AUTH", "AUTHORIZATION", "APIKEY", "APIKEYS", "BEARER",
    "COOKIE", "COOKIES", "JWT", "PAT", "PASSPHRASE", "DSN", "HMAC", "OAUTH", "OTP", "TOTP", "WEBHOOK",
})  # fmt: skip
_WORDS_ALONE: Final = ("PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE")
_ENDINGS: Final = (
    *_WORDS_ALONE, "SECRET", "APIKEY", "AUTHTOKEN", "ACCESSKEY", "ACCOUNTKEY", "PRIVATEKEY", "SECRETKEY", "SIGNINGKEY",
)  # fmt: skip
_LAST: Final = frozenset({"PASS", "PWD", "PW", "KEY", "KEYS"})
_WRAPPED: Final = frozenset({"JSON", "BASE", "BASE64", "B64", "VALUE", "STRING", "64", "HEX", "RAW"})
"""Words behind the one that tells: SECRET_KEY_BASE, TOKEN_JSON."""
# Names of a model's vocabulary and of limits: eos_token, time_per_token.
_VOCABULARY: Final = frozenset({
    "EOS", "BOS", "PAD", "UNK", "SEP", "CLS", "MASK", "STOP", "IMAGE", "AUDIO", "VIDEO", "PER", "FIRST", "NEXT", "LAST",
    "MAX", "MIN", "SPECIAL", "DECODER", "TOOL", "THINK", "START", "END",
})  # fmt: skip
_KEY_KINDS: Final = frozenset({
    "API", "ACCESS", "PRIVATE", "ENCRYPTION", "SIGNING", "ACCOUNT", "MASTER", "SSH", "DEPLOY", "ADMIN", "LICENSE",
})  # fmt: skip
_KEY_FILES: Final = frozenset({"--key", "--sign-key", "--cosign-key"})
"""Options of assay that name a file with a key."""
_PLACES: Final = frozenset({"PWD", "OLDPWD"})
"""Folders, whatever their names end in."""

_LEAST: Final = 4
"""Characters of a value that is looked for in texts: a shorter one is part of other words."""
_PLAIN: Final = frozenset({"true", "false", "none", "null", "auto", "default", "enabled", "disabled"})

_SHAPES: Final = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      hf_[A-Za-z0-9]{8,} | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,} | glpat-[A-Za-z0-9_-]{16,}
    | (?:sk-|[sr]k_live_|[sr]k_test_)[A-Za-z0-9_-]{16,} | nvapi-[A-Za-z0-9_-]{16,} | xox[a-z]-[A-Za-z0-9-]{8,}
    | (?:AKIA|ASIA)[0-9A-Z]{16} | AIza[0-9A-Za-z_-]{30,} | npm_[A-Za-z0-9]{20,} | pypi-[A-Za-z0-9_-]{16,}
    | hooks\.slack\.com/services/[A-Za-z0-9/]+
    | dckr_pat_[A-Za-z0-9_-]{8,} | hvs\.[A-Za-z0-9_-]{16,} | ya29\.[A-Za-z0-9_-]{16,}
    | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*
    )""",
    re.VERBOSE,
)
_KEY_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_USERINFO: Final = re.compile(
    r"(?<![A-Za-z0-9])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,20}://)(?!git@)[^\s/?#\"'<>@]*(?:@[^\s/?#\"'<>@]*)*@"
)
_QUERY: Final = re.compile(r"(?P<head>[?&;](?P<name>[A-Za-z0-9_.-]{1,80})=)[^\s&;#\"'<>]+")
_SIGNATURES: Final = ("sig", "signature")
"""How the names of signatures in addresses end: whoever has such an address may use it."""
_COOKIES: Final = re.compile(r"(?i)\b(?P<head>(?:set-)?cookie:[ \t]*)[^\r\n]+")
_SCHEME: Final = re.compile(r"(?i)\b(?P<scheme>bearer|basic)\s+(?P<value>[A-Za-z0-9._~+/=-]{8,})")
# `"name": "value"`, `name='value'`, `--name value`.
_QUOTED: Final = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_NAMED: Final = re.compile(
    rf"(?<![A-Za-z0-9_.-])(?P<head>(?P<quote>[\"']?)(?P<name>[A-Za-z_][A-Za-z0-9_.-]{{0,80}})(?P=quote)\s?[=:]\s?"
    rf"|--(?P<flag>[a-z][a-z0-9-]{{0,80}})[\s=])"
    rf"(?P<value>{_QUOTED}|\[[^\]\n]{{0,500}}\]|[^\s,;()&\[\]{{}}\"'][^\s,;)&\]}}\"']*)"
)


def is_secret_name(name: str, *, strict: bool = False) -> bool:
    """Return whether a setting of this name holds a secret: a variable, a flag, a key of JSON.

    With `strict`, as for names met in a log, a key has to say of what it is one: `api_key`, not `sort_key`.
    """
    if name.upper() in _PLACES:
        return False
    words = [word.upper() for word in _WORD.findall(name)]
    if any(word in _ANYWHERE or word.endswith(_ENDINGS) for word in words):
        return True
    while words and (words[-1] in _WRAPPED or words[-1].isdecimal()):
        words.pop()
    if not words:
        return False
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    if last in {"KEY", "KEYS"} and strict:
        return before in _KEY_KINDS
    if last.endswith("TOKEN"):
        return before not in _VOCABULARY
    return last in _LAST or (last == "TOKENS" and before in _KEY_KINDS)


def has_password(address: str) -> bool:
    """Return whether an address holds a user or a password before its host, or a secret in its query."""
    if "@" in urlsplit(address).netloc:
        return True
    names = [part.partition("=")[0] for part in re.split(r"[?&;]", address)[1:]]
    return any(is_secret_name(name) or name.lower().endswith(_SIGNATURES) for name in names)


def values_of(*settings: Mapping[str, str | Sequence[str]]) -> list[str]:
    """Return the values of settings that hold secrets, longest first; those that could be any word are left out."""
    found = {
        value
        for group in settings
        for name, given in group.items()
        if is_secret_name(name)
        for value in ([given] if isinstance(given, str) else given)
        if len(value) >= _LEAST and value.lower() not in _PLAIN and not value.isdecimal()
    }
    return sorted(found, key=lambda value: (-len(value), value))


def hide(text: str, values: Iterable[str] = ()) -> str:
    """Return text without these values, and without anything that looks like a secret."""
    for value in values:
        text = text.replace(value, HIDDEN)
    if "PRIVATE KEY" in text:
        text = _KEY_BLOCK.sub(HIDDEN, text)
    if "://" in text:
        text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    if "=" in text:
        text = _QUERY.sub(_queried, text)
    text = _SCHEME.sub(rf"\g<scheme> {HIDDEN}", _COOKIES.sub(rf"\g<head>{HIDDEN}", text))
    return _SHAPES.sub(HIDDEN, _NAMED.sub(_named, text))


def _queried(match: re.Match[str]) -> str:
    secret = is_secret_name(match["name"], strict=True) or match["name"].lower().endswith(_SIGNATURES)
    return f"{match['head']}{HIDDEN}" if secret else match[0]


def _named(match: re.Match[str]) -> str:
    name = match["name"] or match["flag"]
    # "token: it has expired" is a sentence; `api_key: ...` and `"token": ...` are settings.
    sentence = bool(match["name"]) and ":" in match["head"] and not match["quote"] and len(_WORD.findall(name)) < 2
    if (sentence and not name.upper().endswith(_WORDS_ALONE)) or not is_secret_name(name, strict=True):
        return match[0]
    value = match["value"]
    if value.lower() in _PLAIN or value.isdecimal() or value.lower() in {"bearer", "basic"} or HIDDEN in value:
        return match[0]
    quote = value[0] if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1 else ""
    return f"{match['head']}{quote}{HIDDEN}{quote}"


def redacted(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings as they may be kept."""
    return {name: HIDDEN if is_secret_name(name) else hide(value) for name, value in settings.items()}


def words_without(argv: Iterable[str], values: Iterable[str] = ()) -> list[str]:
    """Return a command line as it may be shown: without the values of flags and settings that hold secrets."""
    shown: list[str] = []
    values = tuple(values)
    hidden_next = False
    for word in argv:
        name, equals, value = word.partition("=")
        if hidden_next:
            shown.append(HIDDEN)
        elif equals and value and is_secret_name(name.lstrip("-")):
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(hide(word, values))
        flag = not hidden_next and word.startswith("-") and not equals and word not in _KEY_FILES
        hidden_next = flag and is_secret_name(word.lstrip("-"))
    return shown
