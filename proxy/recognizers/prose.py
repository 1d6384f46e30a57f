"""Doubts about a model's hits: names that touch source code, hold digits, are shouted, or name technology.

What a model was not trained on (code, logs, package lists) it takes for names with middling probability, and mostly in
forms that names seldom have. How sure it must be for which form is data of the profile.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from proxy.model import Finding

type Form = Literal[
    "word",
    "words",
    "lower_word",
    "lower_words",
    "caps_word",
    "caps_words",
    "address",
    "lower_address",
    "number",
    "code",
]
"""What a finding looks like: one word or several, in small or capital letters throughout; with digits; digits only.
`code` is any of them right beside characters of source code."""

type Floors = Mapping[str, Mapping[Form, float]]
"""By entity and form: the probability from which on a model's finding is believed. Above 1: never."""

_CODE_BEFORE: Final = re.compile(r"(?:[_\\/=<@#$%{}\[\]|`~^*&+]|(?<!\n)(?<!\A)>|[\w)\]]\.|::|->|\w\(|\w:|\")\Z")
_CODE_AFTER: Final = re.compile(r"[_\\/=<>@#$%{}\[\]|`~^*+]|\.[\w(]|\(|::|->|:\w|\"")
_CODE_INSIDE: Final = re.compile(r"[_\\/=<>@#$%{}\[\]|`~^*+\"()&]|::|->|\.[a-z]|--")
_COMMENT_BEFORE: Final = re.compile(r"(?:^|\n)[ \t]*(?:#|//|\*|--|;)[ \t]*\Z")
_COMMENT_WINDOW_CHARS: Final = 24
_CAMEL: Final = re.compile(
    r"(?<!\bMc)(?<!\bMac)(?<!\bDe)(?<!\bDi)(?<!\bLa)(?<!\bLe)(?<!\bDu)(?<!\bVan)(?<!\bFitz)(?<=[a-z])[A-Z]"
)
_LETTERS: Final = re.compile(r"[^\W\d_]+")
_TECHNOLOGY: Final = frozenset(
    # Products, languages, protocols and words of documentation that the model takes for people and places.
    [
        "ai",
        "alma",
        "anaconda",
        "android",
        "ansible",
        "apache",
        "api",
        "apis",
        "app",
        "aws",
        "azure",
        "bash",
        "bazel",
        "bitcoin",
        "bot",
        "celery",
        "changelog",
        "chrome",
        "claude",
        "cli",
        "client",
        "code",
        "config",
        "copyright",
        "css",
        "cuda",
        "cursor",
        "dask",
        "data",
        "debian",
        "debconf",
        "debug",
        "django",
        "docker",
        "docs",
        "download",
        "elastic",
        "emacs",
        "email",
        "engine",
        "error",
        "errors",
        "ethereum",
        "excel",
        "fedora",
        "file",
        "firefox",
        "flask",
        "flink",
        "flutter",
        "fortran",
        "framework",
        "gemini",
        "git",
        "github",
        "gitlab",
        "gnome",
        "gnu",
        "google",
        "golang",
        "gpt",
        "grafana",
        "gradle",
        "gtk",
        "gui",
        "hadoop",
        "haskell",
        "helm",
        "html",
        "http",
        "https",
        "input",
        "install",
        "ios",
        "java",
        "javascript",
        "jenkins",
        "jira",
        "json",
        "jupyter",
        "kafka",
        "kerberos",
        "kernel",
        "keras",
        "kubernetes",
        "lambda",
        "latex",
        "library",
        "license",
        "linux",
        "llama",
        "llm",
        "lua",
        "macos",
        "markdown",
        "maven",
        "metadata",
        "middleware",
        "model",
        "module",
        "mongodb",
        "mysql",
        "native",
        "nginx",
        "node",
        "notebook",
        "npm",
        "numpy",
        "nvidia",
        "openai",
        "openssl",
        "oracle",
        "output",
        "package",
        "pandas",
        "parser",
        "perl",
        "php",
        "pip",
        "plugin",
        "postgres",
        "postgresql",
        "pypi",
        "pytest",
        "python",
        "pytorch",
        "qt",
        "rails",
        "redis",
        "regex",
        "release",
        "ruby",
        "rust",
        "scala",
        "sdk",
        "selenium",
        "server",
        "shell",
        "slack",
        "spark",
        "sphinx",
        "sql",
        "sqlite",
        "ssh",
        "stripe",
        "stub",
        "swift",
        "tensorflow",
        "terraform",
        "token",
        "tokenizer",
        "tool",
        "tools",
        "typescript",
        "ubuntu",
        "unicode",
        "unix",
        "url",
        "user",
        "utils",
        "version",
        "vim",
        "visual",
        "vscode",
        "web",
        "webhook",
        "widget",
        "windows",
        "wordpress",
        "wrapper",
        "xml",
        "yaml",
        "zip",
    ]
)


def plausible(text: str, finding: Finding, floors: Floors) -> bool:
    """Whether a model's finding is sure enough for what it looks like. Entities that `floors` does not name are."""
    wanted = floors.get(finding.entity)
    if wanted is None:
        return True
    value = text[finding.start : finding.end]
    words = _LETTERS.findall(value)
    if any(word.lower() in _TECHNOLOGY for word in words):
        return False
    if finding.entity == "PERSON" and len(words) == 1 and _opens_comment(text, finding.start):
        return False
    if _touches_code(text, finding, value) and finding.score < wanted.get("code", 0.0):
        return False
    return finding.score >= wanted.get(form_of(value, words), 0.0)


def form_of(value: str, words: Sequence[str]) -> Form:
    """What the value looks like; `words` are its runs of letters."""
    if not words or max(map(len, words)) < 2:
        return "number"
    if any(char.isdigit() for char in value):
        return "lower_address" if all(word.islower() for word in words) else "address"
    if not any(word[0].isupper() for word in words):
        return "lower_word" if len(words) == 1 else "lower_words"
    if all(word.isupper() for word in words):
        return "caps_word" if len(words) == 1 else "caps_words"
    return "word" if len(words) == 1 else "words"


def _touches_code(text: str, finding: Finding, value: str) -> bool:
    before = text[max(0, finding.start - 2) : finding.start]
    after = text[finding.end : finding.end + 2]
    return bool(
        _CODE_BEFORE.search(before) or _CODE_AFTER.match(after) or _CODE_INSIDE.search(value) or _CAMEL.search(value)
    )


def _opens_comment(text: str, start: int) -> bool:
    return _COMMENT_BEFORE.search(text[max(0, start - _COMMENT_WINDOW_CHARS) : start]) is not None
