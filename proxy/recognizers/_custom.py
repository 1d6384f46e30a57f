"""An installation's own recognisers and profiles: a directory named by `EGRESS_RECOGNIZERS`.

| file | holds |
|---|---|
| `*.yaml` | presidio's recogniser registry format: `recognizers:` with `name`, `supported_entity`, `patterns`, `deny_list`, `context` |
| `*.py` | presidio `EntityRecognizer` subclasses that can be made without arguments |
| `profiles.yaml` | changes of profiles: `balanced: {models: [rampart_full], threshold: 0.5, thresholds: {PERSON: 0.8}}` |

The files are the operator's own code and are trusted as such: they run in the inspectors.
"""  # noqa: E501 - a table row

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from proxy.recognizers.base import ModelUnavailable, Recognizer
from proxy.recognizers.profiles import PROFILES, Profile

VARIABLE: Final = "EGRESS_RECOGNIZERS"
PROFILES_FILE: Final = "profiles.yaml"
_CHANGEABLE: Final = {"models": frozenset, "threshold": float, "thresholds": dict}


def recognizers_of(directory: Path) -> tuple[Recognizer, ...]:
    """Those of all files, by file name. Raises ModelUnavailable, naming the file, when one cannot be used."""
    if not directory.is_dir():
        raise ModelUnavailable(f"{VARIABLE} names {directory}, which is no directory", "make it, or unset the variable")
    found: list[Recognizer] = []
    for path in sorted(directory.iterdir()):
        if path.suffix not in {".yaml", ".py"} or path.name == PROFILES_FILE:
            continue
        try:
            found += _of_yaml(path) if path.suffix == ".yaml" else _of_python(path)
        except Exception as error:
            why = f"the recognisers of {path} do not load ({type(error).__name__}: {error})"
            raise ModelUnavailable(why, "correct the file or move it out of the directory") from error
    return tuple(found)


def _of_yaml(path: Path) -> Iterator[Recognizer]:
    import yaml
    from presidio_analyzer import PatternRecognizer

    from proxy.recognizers._presidio_in import from_presidio

    for fields in yaml.safe_load(path.read_bytes())["recognizers"]:
        given = dict(fields)
        languages = given.pop("supported_languages", None)
        if languages:
            given["supported_language"] = languages[0] if isinstance(languages[0], str) else languages[0]["language"]
        for ignored in ("type", "enabled"):
            given.pop(ignored, None)
        if fields.get("enabled", True):
            yield from_presidio(PatternRecognizer.from_dict(given))


def _of_python(path: Path) -> Iterator[Recognizer]:
    import importlib.util
    import inspect

    from presidio_analyzer import EntityRecognizer

    from proxy.recognizers._presidio_in import from_presidio

    spec = importlib.util.spec_from_file_location(f"egress_recognizers_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for item in vars(module).values():
        own = inspect.isclass(item) and issubclass(item, EntityRecognizer) and item.__module__ == module.__name__
        if own and not inspect.isabstract(item):
            yield from_presidio(item())


def profiles_of(directory: Path) -> Mapping[str, Profile]:
    """The profiles with the directory's changes. Raises ModelUnavailable when the file names what does not exist."""
    path = directory / PROFILES_FILE
    if not path.is_file():
        return PROFILES
    import yaml

    try:
        changes = yaml.safe_load(path.read_bytes())
        return {name: _changed(profile, changes.pop(name, {})) for name, profile in PROFILES.items()} | _no_rest(
            changes
        )
    except Exception as error:
        why = f"{path} does not load ({type(error).__name__}: {error})"
        raise ModelUnavailable(why, f"it may change {', '.join(_CHANGEABLE)} of {', '.join(PROFILES)}") from error


def _changed(profile: Profile, change: Mapping[str, Any]) -> Profile:
    unknown = set(change) - set(_CHANGEABLE)
    if unknown:
        raise ValueError(f"unknown setting {min(unknown)}")
    return replace(profile, **{key: _CHANGEABLE[key](value) for key, value in change.items()})


def _no_rest(changes: Mapping[str, Any]) -> dict[str, Profile]:
    if changes:
        raise ValueError(f"unknown profile {min(changes)}")
    return {}
