"""Policy files to a revision (`load_content`), a revision to what the hot path reads (`compile_snapshot`).

Both read through the same table and the same checks, so that a revision that a worker gets is checked again, whoever
made it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.config.build import build_app, build_platform
from proxy.config.certificates import PEM_START, ca_certificates
from proxy.config.checks import PlatformFacts, check_app, check_networks, check_platform
from proxy.config.connectors import check_connectors, splice
from proxy.config.documents import decode, encode, to_node
from proxy.config.errors import ConfigError, Mark, Problems, shown
from proxy.config.load import PLATFORM_FILE, Source, load_directory
from proxy.config.schema import APP, CONNECTOR_FILE, PLATFORM
from proxy.config.snapshot import AppPolicy, Network, Snapshot
from proxy.config.types import NOT_MADE_YET, BadValue, Obj, Reader, Rec, Val

_NOT_READ: Final = Val(Rec({}, {}, Mark(PLATFORM_FILE, 1, 1)), {}, Mark(PLATFORM_FILE, 1, 1))


@dataclass(frozen=True, slots=True)
class Content:
    """One policy, complete and checked. `canonical`: canonical JSON (see `proxy.config.documents`); `revision`: its
    hex SHA-256; `apps`: the names in it. `warnings`: what a preview goes on without."""

    canonical: bytes
    revision: str
    apps: tuple[str, ...]
    warnings: tuple[ConfigError, ...] = ()


def load_content(
    directory: Path,
    state_dir: Path | None = None,
    *,
    entities: frozenset[str] | None = None,
    preview: bool = False,
) -> Content:
    """Reads and checks a directory of policy files. Raises ConfigErrors with all mistakes at once.

    `state_dir`: where `upstream_ca: state:FILE` is looked up. `entities`: the known ones (None: those of the
    recognisers of this installation). `preview`: a file that is made at the first start may be missing; it is a warning
    then, and the content can be looked at and not used (`compile_snapshot` takes it with `preview` only).
    """
    known = known_entities() if entities is None else entities
    return compile_source(load_directory(directory, state_dir), entities=known, preview=preview)


def known_entities() -> frozenset[str]:
    """What the recognisers of this installation can find."""
    from proxy.recognizers import discover

    return frozenset(entity for recognizer in discover() for entity in recognizer.entities)


def compile_source(source: Source, *, entities: frozenset[str] | None = None, preview: bool = False) -> Content:
    """Checks what was read and makes a revision of it. Raises ConfigErrors with all mistakes at once.

    `entities` None: any name is taken. `preview`: as in `load_content`.
    """
    problems = source.problems
    reader = Reader(problems, source.asset, data=source.data, preview=preview)
    node = source.files.get(PLATFORM_FILE)
    platform = (PLATFORM.read(node, reader) if node is not None else None) or _NOT_READ
    connectors = _read_folder(source, "connectors", CONNECTOR_FILE, "connector", reader)
    apps = {
        name: splice(app, connectors, problems)
        for name, app in _read_folder(source, "apps", APP, "app", reader).items()
        if app is not None
    }
    facts = PlatformFacts.of(platform.value, entities)
    check_platform(platform.value, facts, problems)
    check_connectors(connectors, facts, problems)
    for app in apps.values():
        check_app(app.value, facts, problems)
    check_networks(_claims(apps.values()), problems)
    problems.raise_if_any()
    canonical = encode(platform, apps)
    return Content(canonical, revision_of(canonical), tuple(sorted(apps)), tuple(problems.warnings))


def revision_of(canonical: bytes) -> str:
    """The name of a content: its hex SHA-256."""
    return hashlib.sha256(canonical).hexdigest()


def _read_folder(source: Source, folder: str, kind: Obj, key: str, reader: Reader) -> dict[str, Val | None]:
    """Name -> what could be read of it; the name is the file's and must stand in the file too."""
    found: dict[str, Val | None] = {}
    for file, node in source.files.items():
        if not file.startswith(f"{folder}/"):
            continue
        name = file.removeprefix(f"{folder}/").removesuffix(".yaml")
        found[name] = value = kind.read(node, reader)
        given = value.value.get(key) if value else None
        if value is not None and given is not None and given != name:
            message = f"`{key}: {given}` stands in the file {file}"
            reader.problems.add(value.value.fields[key].mark, message, f"rename the file to {folder}/{given}.yaml")
    return found


def _claims(apps: Iterable[Val]) -> Iterable[tuple[Network, str, Mark]]:
    for app in apps:
        identify = app.value.rec("identify")
        for item in identify.items("networks") if identify else ():
            yield item.value, app.value.get("app", ""), item.mark


def compile_snapshot(
    canonical: bytes, *, seq: int, previous: Snapshot | None = None, preview: bool = False
) -> Snapshot:
    """Compiles a revision; apps that did not change keep their objects of `previous`. Raises ConfigErrors. Pure.

    `preview`: takes the content of a preview too; nothing can be sent where it lacks a file.
    """
    document = decode(canonical)
    problems = Problems()
    reader = Reader(problems, _previewed_ca if preview else _inline_ca, internal=True)
    places = document["_at"]
    platform = PLATFORM.read(to_node(document["platform"], places["platform"]), reader) or _NOT_READ
    facts = PlatformFacts.of(platform.value)
    check_platform(platform.value, facts, problems)
    problems.raise_if_any()
    built = build_platform(platform.value)
    base = _digest([document["platform"], places["platform"]])
    known = {app.source: app for app in previous.apps.values()} if previous else {}
    apps: dict[str, AppPolicy] = {}
    for name, content in document["apps"].items():
        marks = places["apps"].get(name)
        marks = marks if isinstance(marks, dict) else {}
        source = _digest([base, name, content, marks])
        if source in known:
            apps[name] = known[source]
        elif (app := _read_app(name, content, marks, facts, reader)) is not None:
            apps[name] = build_app(app, built, facts.defaults, source)
    check_networks(((net, app.app, Mark.parse(app.at)) for app in apps.values() for net in app.networks), problems)
    problems.raise_if_any()
    return Snapshot(revision=revision_of(canonical), seq=seq, platform=built, apps=apps)


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _read_app(name: str, content: Any, marks: Mapping[str, Any], facts: PlatformFacts, reader: Reader) -> Rec | None:
    """One app of a revision, or None when it has mistakes (now noted in the reader's problems)."""
    before = len(reader.problems.errors)
    app = APP.read(to_node(content, marks), reader)
    if app is not None:
        check_app(app.value, facts, reader.problems)
        if app.value.get("app") != name:
            reader.problems.add(app.mark, f"the app {shown(name)} calls itself otherwise", f"app: {name}")
        if "use" in app.value:
            reader.problems.add(app.value.at("use"), "connectors are resolved in a revision", "publish it again")
    return app.value if app is not None and len(reader.problems.errors) == before else None


def _previewed_ca(text: str) -> str:
    return text if text.startswith(NOT_MADE_YET) else _inline_ca(text)


def _inline_ca(text: str) -> str:
    if not text.startswith(PEM_START):
        raise BadValue("a revision holds certificates, not file names", "publish it again with `egress push`")
    return ca_certificates(text.encode(), "the certificate")
