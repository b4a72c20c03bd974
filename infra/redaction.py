"""Text -> the same text without its secrets: for messages, traces and logs, which others can read."""

import re

HIDDEN = "***"

# A value whose name ends in one of these is a secret. `max_tokens` and `KeyError` are not such names.
_NAME = (
    r"(?:(?:(?<![a-z])|access|account|api|private|secret)[_-]?key(?:[_-]?id)?"
    r"|secret|token|passw(?:or)?d|passphrase|pwd|signature|credentials?|(?<![a-z])(?:sig|sas))"
)
# In quotes, which may be escaped, as in JSON within JSON, and so may quotes within them; or up to a blank.
_VALUE = (
    r"(?!\*\*\*)(?:(?P<quote>\\{0,3}['\"])(?:(?!(?P=quote))(?:\\.|[^\\\n]))*+(?P=quote)"
    r"|\\{0,3}['\"]?[^\s'\"&;<>]+)"
)

# The first group of each is kept, and `***` replaces what follows it.
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(authorization['\"]?\s?[=:]\s?['\"]?)(?!\*\*\*)[^'\"\n,}]+",
        r"(\bBearer\s+)(?!\*\*\*|token\b)[^\s'\"]+",
        rf"({_NAME}(?:=|%3D|\\{{0,3}}['\"]\s?[:=]\s?)){_VALUE}",  # in a query, an environment, JSON, a dict's repr
        rf"((?:password|secret|(?:access|api|secret)[_-]key|(?:access|auth|session)[_-]token)(?:\s?:|\s=)\s?){_VALUE}",
        r"(\b(?:AKIA|ASIA))[A-Z0-9]{12,}\b",
        r"(\b(?:hf_|sk-))[A-Z0-9_-]{20,}",
        r"(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)(?!\*\*\*)(?s:.*?)(?=-----END|\Z)",
    )
)
_WORD = re.compile(r"[^\s'\"<>]+")


def redacted(text: str) -> str:
    """The text with `***` in place of everything that looks like a secret.

    These are the user part of a URI (`s3://KEY:SECRET@bucket`), values by a name such as `token`, `password` or
    `signature` (in a URI's query, an environment or JSON), HTTP credentials, the
    keys of AWS, Hugging Face and OpenAI, and private keys. It takes linear time.
    """
    text = _WORD.sub(lambda word: _without_user(word[0]), text)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def _without_user(word: str) -> str:
    """A URI without its user part. A secret may hold `/` and `@` unescaped: if there is a `:`, as before a password,
    everything up to the last `@` is removed."""
    scheme, separator, rest = word.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = (rest if ":" in authority else authority).rfind("@")
    return word if end < 0 else f"{scheme}{separator}{HIDDEN}{rest[end:]}"
