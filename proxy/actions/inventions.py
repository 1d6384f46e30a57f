"""Invented people and ways to reach nobody: what `synthesize` puts in place of the real ones."""

from collections.abc import Callable, Mapping
from typing import Final

_FIRST_NAMES: Final = """
    Ada Adele Agnes Alba Alma Alva Amos Anton Arlo Astrid August Basil Beata Bela Berta Bruno Carla Casper Cecil
    Celia Clara Cleo Conrad Cora Dag Dora Edda Edgar Edith Edwin Effie Egon Elin Elmar Elsa Emil Enid Enno Erna
    Ernst Esther Eva Ezra Fanny Felix Fenja Fergus Flora Freya Frida Gaston Gerda Gideon Greta Gustav Hanna Harald
    Hazel Hedda Helga Henrik Herta Hilda Hugo Ida Ilse Inga Irma Isidor Ivo Jasper Joachim Jonas Josef Judith
    Jules Karin Karl Kasimir Kira Konrad Lambert Lars Leila Lennart Leonie Levi Lilian Linus Lorenz Lotta Ludwig
    Luis Mabel Magda Maren Marlon Martha Matilda Merle Milan Minna Mona Moritz Nadia Nelly Nils Nora Odin Olga
    Oscar Otto Paula Perry Petra Quentin Ralf Rosa Rufus Runa Selma Silas Simon Sonja Sven Tabea Thea Tilda Ulla
    Vera Viola Walter Wanda Wilma Xenia Yorick Zelda
"""
_LAST_NAMES: Final = """
    Aalberg Abelson Achterby Almond Amberley Appelgren Arkwright Ashdown Atterbury Axelby Bachmeier Barrowby
    Beckdale Bellwood Bergfeld Birkholm Blackmere Bluhm Borgstedt Brambell Brandlow Brightley Brookner Burrowes
    Calloway Carnaby Castellan Chalmerly Clearwell Coldham Copperfield Cranmore Dahlquist Dalwhin Danforth
    Dellmark Dorrance Drayford Dunmoor Eastlake Eberline Edgemont Eichwald Ellerby Elmstead Engelbert Fairbourne
    Falkenrath Farrowdale Feldmark Fenwright Finchley Flintham Forsberg Foxhall Gablemark Garlandt Glasmoor
    Goldbeck Grainger Granholm Greenlaw Grimsdale Hagedorn Hallgarth Hammerly Hartwell Hasselby Hawkridge
    Heathcote Hellstrand Hollinger Holmquist Ironside Jarlsby Jessamy Kaltenby Kestrel Kingswell Kirkdale Klingsor
    Lachmann Langmead Larkspur Lindhorst Lockhart Longacre Lundgreen Marbury Marchmont Meadowes Merriweather
    Millbrook Moorcroft Mossberg Nachtweih Netherby Nordhagen Oakhurst Oldershaw Osterby Pagenkop Pemberly
    Pinewood Quillfeather Rabensberg Ravenhill Redfern Ringwald Rosendale Rothwell Sandholm Seaborne Silverlund
    Skylark Sommerfeld Steinhagen Stonebridge Summerby Swanholm Thornbury Tidewell Underhay Valmont Vinterberg
    Wachtel Waldgrave Westergaard Whitlock Wildmoor Winterbourne Woodrow Yarrow Zimmerwald
"""
FIRST_NAMES: Final = tuple(_FIRST_NAMES.split())
LAST_NAMES: Final = tuple(_LAST_NAMES.split())
_INITIALS: Final = "ABCDEFGHIJKLMNOPRSTUVWYZ"
_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_MAIL_DOMAIN: Final = "example.org"
"""RFC 2606 section 3: never anybody's."""
_UK_AREAS: Final = ("113", "114", "115", "116", "117", "118", "121", "131", "141", "151", "161")


class Dice:
    """Draws from a large secret number: the same number, the same draws."""

    def __init__(self, number: int) -> None:
        self._left = number

    def below(self, limit: int) -> int:
        self._left, drawn = divmod(self._left, limit)
        return drawn

    def of(self, choices: tuple[str, ...] | str) -> str:
        return choices[self.below(len(choices))]


def _person(dice: Dice, original: str) -> str:  # noqa: ARG001 - the shape of an invention
    return f"{dice.of(FIRST_NAMES)} {dice.of(_INITIALS)}. {dice.of(LAST_NAMES)}"


def _mail(dice: Dice, original: str) -> str:  # noqa: ARG001 - the shape of an invention
    tail = "".join(dice.of(_BASE32) for _ in range(4))
    return f"{dice.of(FIRST_NAMES)}.{dice.of(LAST_NAMES)}.{tail}@{_MAIL_DOMAIN}".lower()


def _phone(dice: Dice, original: str) -> str:
    """Numbers kept for fiction: 555-0100 to 0199 of any American area code (ATIS-0300115), the drama numbers of
    British cities (Ofcom)."""
    if original.startswith("+44"):
        return f"+44 {dice.of(_UK_AREAS)} 496 0{dice.below(1000):03}"
    area = f"{2 + dice.below(8)}{(0, 2, 3, 4, 5, 6, 7, 8)[dice.below(8)]}{dice.below(10)}"
    number = f"{area}-555-01{dice.below(100):02}"
    return f"+1 {number}" if original.startswith("+") else number


INVENTIONS: Final[Mapping[str, Callable[[Dice, str], str]]] = {
    "PERSON": _person, "EMAIL_ADDRESS": _mail, "PHONE_NUMBER": _phone,
}  # fmt: skip
