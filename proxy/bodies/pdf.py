"""The text of a PDF (ISO 32000), with what else in it can carry text: metadata, annotations, form fields, attachments.

pypdf does the reading. It is imported at the first PDF, and its log lines are off: they quote the document.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from proxy.bodies.archives import UnreadableError
from proxy.bodies.limits import Limits, refuse_size

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

_MOST_PAGES: Final = 1000
_MOST_FORMS: Final = 2000
_UNREAD: Final = "\ufffd"


@dataclass(slots=True)
class Document:
    """`texts`: one per page, then the rest. `files`: attachments. `complete` False: there are images, or fonts without
    their letters, in which there may be more."""

    texts: list[str] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    complete: bool = True


def read(data: bytes, limits: Limits) -> Document:
    """Raises UnreadableError (`encrypted`, `pdf`), Denied `too_large`."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL + 1)
    try:
        reader = PdfReader(BytesIO(data), strict=False)
        if reader.is_encrypted:
            raise UnreadableError("encrypted")
        return _document(reader, limits)
    except (PyPdfError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        raise UnreadableError("pdf") from None


def _document(reader: "PdfReader", limits: Limits) -> Document:
    document = Document()
    size = 0
    if len(reader.pages) > _MOST_PAGES:
        raise refuse_size("the PDF", _MOST_PAGES, "pages")
    for page in reader.pages:
        text = page.extract_text()
        document.texts += (text, *_annotations(page))
        document.complete = document.complete and _UNREAD not in text and not _has_images(page)
        size += len(text)
        if size > limits.max_decoded_bytes:
            raise refuse_size("the text of the PDF", limits.max_decoded_bytes, "characters")
    document.texts += [str(value) for value in (reader.metadata or {}).values()]
    document.texts += [str(item.get("/V", "")) for item in (reader.get_fields() or {}).values()]
    for contents in reader.attachments.values():
        document.files += contents
    return document


def _annotations(page: "PageObject") -> Iterator[str]:
    for reference in page.get("/Annots") or ():
        annotation: Any = reference.get_object()
        for key in ("/Contents", "/T", "/Subj", "/RC"):
            if key in annotation:
                yield str(annotation[key])
        action = annotation.get("/A")
        if action is not None and "/URI" in action.get_object():
            yield str(action.get_object()["/URI"])


def _has_images(page: "PageObject") -> bool:
    """In the page or in a form that it draws."""
    todo: list[Any] = [page.get("/Resources")]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        resources: Any = found.get_object() if found is not None else None
        if resources is None or id(resources) in seen:
            continue
        seen.add(id(resources))
        if len(seen) > _MOST_FORMS:
            return True
        objects = resources.get("/XObject")
        for reference in (objects.get_object() if objects is not None else {}).values():
            drawn = reference.get_object()
            if drawn.get("/Subtype") == "/Image":
                return True
            todo.append(drawn.get("/Resources"))
    return False
