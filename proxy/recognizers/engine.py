"""The detector: runs the recognisers over texts, raises scores by context, applies a profile, settles overlaps.

Pure but for its memo. One engine serves one process; `detect` may be called from several threads.
"""

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from threading import Lock
from typing import Final

from proxy.config.snapshot import DlpPolicy
from proxy.model import Finding
from proxy.recognizers import discover, own_directory
from proxy.recognizers._custom import profiles_of
from proxy.recognizers._slices import SLICE_CHARS, slices
from proxy.recognizers.base import CONTEXT_RAISE, LAYERS, Recognizer, near
from proxy.recognizers.profiles import PROFILES, Profile
from proxy.recognizers.prose import plausible
from proxy.recognizers.resolve import resolve

MIN_SCORE_WITH_CONTEXT: Final = 0.4
"""Presidio's `min_score_with_context_similarity`."""
MEMO_ENTRIES: Final = 65_536
_MEMO_FINDINGS: Final = 1024
"""A text with more is a list of customers, not a part of a conversation that comes again and again."""
_NER_CHUNK_CHARS: Final = 16_384
"""What one turn at the model may take; a long body gives way to a short prompt between turns."""


class _Turns:
    """A lock that is given in order of asking: `threading.Lock` would let a long job take every turn."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._busy = False
        self._waiting: deque[Lock] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._guard:
            ticket = Lock() if self._busy else None
            self._busy = True
            if ticket is not None:
                ticket.acquire()
                self._waiting.append(ticket)
        if ticket is not None:
            ticket.acquire()
        try:
            yield
        finally:
            with self._guard:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._busy = False


class LeafMemo:
    """Findings of texts already seen, under a keyed digest (never the text), bounded, least recently used out first."""

    def __init__(self, max_entries: int = MEMO_ENTRIES, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, tuple[Finding, ...]] = OrderedDict()
        self._lock = Lock()

    def digest(self, text: str, plan: str) -> bytes:
        salted = blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16)
        salted.update(b"\xff" + plan.encode())
        return salted.digest()

    def get(self, digest: bytes) -> tuple[Finding, ...] | None:
        with self._lock:
            found = self._entries.get(digest)
            if found is not None:
                self._entries.move_to_end(digest)
            return found

    def put(self, digest: bytes, findings: Iterable[Finding]) -> None:
        kept = tuple(findings)
        if len(kept) > _MEMO_FINDINGS:
            return
        with self._lock:
            self._entries[digest] = kept
            self._entries.move_to_end(digest)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one combination of profile and named entities runs. `key` names the combination in the memo."""

    key: str
    profile: Profile
    local: tuple[Recognizer, ...]
    batched: tuple[Recognizer, ...]
    allowed: Mapping[str, frozenset[str]]
    """By recogniser: the entities that it may report here."""


class Engine:
    """Implements `proxy.inspection.Detector`. Build it with `Engine.load`."""

    def __init__(
        self,
        recognizers: Sequence[Recognizer],
        *,
        profiles: Mapping[str, Profile] = PROFILES,
        memo: LeafMemo | None = None,
    ) -> None:
        self._recognizers = tuple(recognizers)
        self._by_name = {item.name: item for item in self._recognizers}
        self._profiles = profiles
        self._memo = memo if memo is not None else LeafMemo()
        self._plans: dict[tuple[str, frozenset[str]], _Plan] = {}
        self._turns = _Turns()

    @classmethod
    def load(cls, recognizers: Sequence[Recognizer] | None = None, *, memo: LeafMemo | None = None) -> "Engine":
        """Loads every model and warms it. `memo`: instead of a new one.

        Raises ModelUnavailable: a process without its models must not start.
        """
        chosen = tuple(recognizers) if recognizers is not None else discover()
        for item in chosen:
            item.load()
        directory = own_directory()
        engine = cls(chosen, profiles=PROFILES if directory is None else profiles_of(directory), memo=memo)
        for profile in engine._profiles:
            engine.detect(["Jane Roe of Springfield pays with 4111 1111 1111 1111, call +1 415 555 2671."], profile)
        return engine

    def detect(
        self, texts: Sequence[str], profile: str = "balanced", entities: frozenset[str] | None = None
    ) -> list[list[Finding]]:
        """Disjoint findings of each text in text order; offsets in characters.

        `entities`: also look for these, on top of the profile's own (a rule that names an entity wants it found).
        Raises KeyError for an unknown profile, RecognizerFailed when a text could not be looked at whole.
        """
        plan = self._plan(profile, entities or frozenset())
        digests = [self._memo.digest(text, plan.key) for text in texts]
        results = [self._memo.get(digest) for digest in digests]
        fresh = {digest: text for digest, text, known in zip(digests, texts, results, strict=True) if known is None}
        found = dict(zip(fresh, self._fresh(list(fresh.values()), plan), strict=True))
        for digest, findings in found.items():
            self._memo.put(digest, findings)
        return [
            list(known if known is not None else found[digest]) for digest, known in zip(digests, results, strict=True)
        ]

    def _plan(self, name: str, named: frozenset[str]) -> _Plan:
        plan = self._plans.get((name, named))
        if plan is None:
            profile = self._profiles[name]
            wanted = profile.entities | named
            allowed = {item.name: self._allowed(item, profile, named) for item in self._recognizers}
            used = [item for item in self._recognizers if allowed[item.name]]
            key = "\0".join((name, *sorted(wanted - profile.entities)))
            local = tuple(item for item in used if item.find_many is None)
            batched = tuple(item for item in used if item.find_many is not None)
            plan = _Plan(key, profile, local, batched, allowed)
            self._plans[name, named] = plan
        return plan

    def _allowed(self, item: Recognizer, profile: Profile, named: frozenset[str]) -> frozenset[str]:
        """A model that the profile does not name is asked only for what the profile's models cannot find."""
        usual = frozenset(entity for entity in item.entities if profile.looks_for(entity))
        wanted = item.entities if item.custom else usual | (item.entities & named)
        if item.layer != "model" or item.name in profile.models:
            return wanted
        covered = (other.entities for other in self._recognizers if other.name in profile.models)
        return item.entities & named - frozenset[str]().union(*covered)

    def _fresh(self, texts: list[str], plan: _Plan) -> list[list[Finding]]:
        raw: list[list[tuple[int, Finding]]] = [list(self._local(text, plan)) for text in texts]
        for item in plan.batched:
            layer = LAYERS.index(item.layer)
            for index, findings in enumerate(self._batched(item, texts)):
                raw[index].extend((layer, finding) for finding in self._weighed(texts[index], item, findings, plan))
        return [resolve(text, ranked) for text, ranked in zip(texts, raw, strict=True)]

    def _local(self, text: str, plan: _Plan) -> Iterator[tuple[int, Finding]]:
        for item in plan.local:
            if item.trigger(text):
                layer = LAYERS.index(item.layer)
                for finding in self._weighed(text, item, item.find(text), plan):
                    yield layer, finding

    def _batched(self, item: Recognizer, texts: list[str]) -> Iterator[list[Finding]]:
        """Batches of bounded size, each at its turn, so that one long body does not hold up the short ones."""
        if item.find_many is None:
            return
        batch: list[str] = []
        size = 0
        for text in texts:
            if batch and size + len(text) > _NER_CHUNK_CHARS:
                with self._turns.turn():
                    yield from item.find_many(batch)
                batch, size = [], 0
            if len(text) > SLICE_CHARS:
                yield self._sliced(item.find_many, text)
                continue
            batch.append(text)
            size += len(text)
        if batch:
            with self._turns.turn():
                yield from item.find_many(batch)

    def _sliced(self, find_many: Callable[[Sequence[str]], list[list[Finding]]], text: str) -> list[Finding]:
        found: list[Finding] = []
        for piece in slices(len(text)):
            with self._turns.turn():
                (findings,) = find_many([text[piece.start : piece.end]])
            found += piece.own(findings)
        return found

    def naming(self, dlp: DlpPolicy) -> "PolicyDetector":
        """The detector for one policy: what its rules name is looked for, also where the profile would not."""
        named = frozenset[str]().union(*(rule.entities for rule in (*dlp.rules, *dlp.response_rules)))
        return PolicyDetector(self, named)

    @staticmethod
    def _weighed(text: str, item: Recognizer, findings: Iterable[Finding], plan: _Plan) -> Iterator[Finding]:
        for finding in findings:
            if finding.entity not in plan.allowed[item.name]:
                continue
            score = finding.score
            if score < 1 and near(text, finding.start, finding.end, item.context):
                score = min(1.0, max(score + CONTEXT_RAISE, MIN_SCORE_WITH_CONTEXT))
            if not plan.profile.admits(finding.entity, score):
                continue
            if item.layer == "model" and not plausible(text, finding, plan.profile.floors):
                continue
            yield finding if score == finding.score else replace(finding, score=score)


@dataclass(frozen=True, slots=True)
class PolicyDetector:
    """An engine that also looks for `named` entities."""

    engine: Engine
    named: frozenset[str]

    def detect(
        self, texts: Sequence[str], profile: str = "balanced", entities: frozenset[str] | None = None
    ) -> list[list[Finding]]:
        """As `Engine.detect`."""
        return self.engine.detect(texts, profile, self.named | (entities or frozenset()))
