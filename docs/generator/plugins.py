"""Pages of what is found by listing packages: recognisers, providers, rules, sinks."""

import importlib

from docs.generator.markdown import code, codes, first_sentence, section, table


def _doc(module: str) -> str | None:
    return importlib.import_module(module).__doc__


def entities() -> str:
    """proxy/recognizers"""
    from proxy.model import DLP_ACTIONS
    from proxy.recognizers import discover, modules, of_module
    from proxy.recognizers.base import LAYERS
    from proxy.recognizers.profiles import PROFILES

    found = sorted({entity for one in discover() for entity in one.entities})
    by_entity = [
        (
            code(entity),
            codes(one.name for one in discover() if entity in one.entities),
            codes(name for name, profile in PROFILES.items() if profile.looks_for(entity)),
        )
        for entity in found
    ]
    by_recognizer = [
        (
            code(one.name),
            codes(sorted(one.entities)),
            one.layer,
            codes(sorted(one.languages)),
            f"`proxy/recognizers/{name}.py`: {first_sentence(_doc(f'proxy.recognizers.{name}'))}",
        )
        for name in modules()
        for one in of_module(name)
    ]
    profiles = [
        (code(name), str(len(one.entities)), str(one.threshold), codes(sorted(one.models)))
        for name, one in PROFILES.items()
    ]
    by_action = [
        (code(name), first_sentence(_doc(f"proxy.actions.{name}")).removeprefix(f"`{name}`: ")) for name in DLP_ACTIONS
    ]
    return (
        "An entity that is in no profile is looked for only where a policy names it (in a rule, or in a class that a "
        "rule names).\n\n"
        + section("Entities", table(("entity", "found by", "in profiles"), by_entity))
        + "\n"
        + section(
            "Actions",
            "The severest first: of all rules that match a finding, the severest wins.\n\n"
            + table(("action", "what it does"), by_action),
        )
        + "\n"
        + section("Profiles", table(("profile", "entities", "least score", "models that read every text"), profiles))
        + "\n"
        + section(
            "Recognisers",
            f"Where two overlap, the stronger layer keeps its span; the layers, strongest first: {codes(LAYERS)}.\n\n"
            + table(("recogniser", "entities", "layer", "languages", "module"), by_recognizer),
        )
    )


def providers() -> str:
    """proxy/providers"""
    from proxy.providers import PROVIDERS

    parts = []
    for one in PROVIDERS:
        facts = [
            ("operation", code(one.operation)),
            ("paths (POST)", code(one.paths.pattern)),
            ("credential headers", codes(sorted(one.credential_headers))),
            ("served by other hosts as", code(one.compatible)),
            ("decides policy or money", codes(sorted(one.deciding))),
        ]
        hosts = [(code(host), code(vendor)) for host, vendor in one.hosts.items()]
        module = type(one).__module__
        lead = f"{first_sentence(_doc(module))} Module: `{module.replace('.', '/')}.py`."
        body = f"{lead}\n\n{table(('fact', 'value'), facts)}\n{table(('host', 'provider name'), hosts)}"
        parts.append(section(one.dialect, body))
    return (
        "An inference call is recognised by method and path, whatever its host, so that gateways and look-alikes are "
        "inspected, metered and cached too. The host decides who is named as provider (`gen_ai.provider.name`), and so "
        "which price counts.\n\n" + "\n".join(parts)
    )


def rules() -> str:
    """proxy/rules"""
    from proxy.rules import discover
    from proxy.rules.base import STAGES, Gate, Rule

    rows = [
        (
            code(one.name),
            "gate" if isinstance(one, Gate) else "entry",
            codes(stage for stage in STAGES if stage in one.stages),
            one.what,
            "yes" if isinstance(one, Rule) and not one.bites_in_report else "no",
        )
        for one in discover()
    ]
    return (
        "Rules judge in this order. A *gate* judges the app and the request; an *entry* rule removes the allowlist "
        "entries that do not admit the request, and the rule that removes the last one is the denial. All rules of "
        "earlier stages judge again at each later stage, with what is known by then. `mode: report` softens only the "
        "rules whose last column says so.\n\n"
        + table(("rule", "kind", "stages", "passes when", "softened by report mode"), rows)
    )


def sinks() -> str:
    """proxy/sinks"""
    from proxy.sinks import sinks as found

    rows = [(code(one.name), "yes" if one.durable else "no", one.help) for one in found().values()]
    return (
        "Where audit lines go. A *durable* sink is one that the chain may rest on: a line survives a power cut once "
        "it was written.\n\n" + table(("sink", "durable", "what"), rows)
    )
