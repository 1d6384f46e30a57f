"""Doubts about a model's hits: names that touch source code, hold digits, are shouted, or name technology.

spaCy's small model gives no probabilities and was trained on news, so on code, logs and package lists most of its hits
are wrong. These rules look at one finding and the characters around it.
"""

import re
from typing import Final, Literal

from proxy.model import Finding

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


def plausible(text: str, finding: Finding, doubt: Literal["none", "usual", "hard"]) -> bool:
    """Whether a person or place found by a model is worth reporting under this much doubt."""
    if doubt == "none" or finding.entity not in {"PERSON", "LOCATION"}:
        return True
    value = text[finding.start : finding.end]
    words = _LETTERS.findall(value)
    if not words or max(map(len, words)) < 2 or any(char.isdigit() for char in value):
        return False
    if any(word.lower() in _TECHNOLOGY for word in words) or _touches_code(text, finding, value):
        return False
    single = len(words) == 1
    if finding.entity == "PERSON" and single and (value.isupper() or _opens_comment(text, finding.start)):
        return False
    if not any(word[0].isupper() for word in words):
        return doubt != "hard" and finding.entity == "LOCATION"
    return doubt != "hard" or (not single and not all(word.isupper() for word in words))


def _touches_code(text: str, finding: Finding, value: str) -> bool:
    before = text[max(0, finding.start - 2) : finding.start]
    after = text[finding.end : finding.end + 2]
    return bool(
        _CODE_BEFORE.search(before) or _CODE_AFTER.match(after) or _CODE_INSIDE.search(value) or _CAMEL.search(value)
    )


def _opens_comment(text: str, start: int) -> bool:
    return _COMMENT_BEFORE.search(text[max(0, start - _COMMENT_WINDOW_CHARS) : start]) is not None
