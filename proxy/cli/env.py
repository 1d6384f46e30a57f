"""`egress env`: proxy and CA variables for a client, ready for `eval "$(egress env --app A)"`."""

import argparse
import asyncio
from urllib.parse import urlsplit

from proxy.cli import Verb
from proxy.cli._client_env import LANGUAGES, NOTES, exports, proxy_url, variables, write_trust_files
from proxy.cli._issue import issue
from proxy.cli._keys import day, load_ca, parse_duration
from proxy.cli._out import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", help="put a fresh token of this app into the proxy URL")
    parser.add_argument("--lang", choices=LANGUAGES, default="shell", help="only what this language's clients read")
    parser.add_argument(
        "--proxy", metavar="URL", help="the proxy (default: the one that runs with this state directory)"
    )
    parser.add_argument("--ttl", default="1h", help="lifetime of the token (default: 1h)")
    parser.add_argument("--no-proxy", default="", metavar="HOSTS", help="hosts that go round the proxy (default: none)")
    parser.add_argument("--store", metavar="URL", help="store of a shared installation (default: the embedded one)")


def with_credentials(url: str, user: str, password: str) -> str:
    """A proxy URL with Basic credentials; app names and tokens need no escaping."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def _run(args: argparse.Namespace) -> int:
    url = proxy_url(args.paths, args.proxy)
    comments = [f"# {NOTES[args.lang]}"] if args.lang in NOTES else []
    if args.app:
        ttl_s = parse_duration(args.ttl)
        made = asyncio.run(issue(args.paths, args.store, args.app, ttl_s, "egress env", must_record=False))
        url = with_credentials(url, args.app, made.token)
        comments.append(
            f"# The token is good until {day(made.expires_at_s)}. For a process that lives longer: "
            f"egress connect --app {args.app} -- COMMAND"
        )
    files = write_trust_files(args.paths, load_ca(args.paths), java=args.lang in ("java", "shell"))
    values = variables(url, files, language=args.lang, no_proxy=args.no_proxy)
    show(args, values, "\n".join([*comments, exports(values)]))
    return 0


VERB = Verb("env", "print proxy and CA variables for a language's clients", _configure, _run)
