"""Captions of overhead views in ten languages, each with its own words, agreement, word order and script.

A caption counts one or two kinds of thing and says on what ground they lie: "two white planes and a road in the desert". Chinese and
Korean name the ground first and count with classifiers, Korean puts the noun before its number and ends in a verb, Romance languages put
the colour after the noun and let it agree, German and Dutch inflect it by number, and Russian numerals take the genitive.

>>> caption((KindCount("plane", 2, "white"), KindCount("road")), "desert", "fr")
'deux avions blancs et une route dans le désert'
>>> caption((KindCount("ship", 3, "red"),), "water", "ko")
'물 위에 빨간색 선박 세 척이 있다'
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.core.errors import UnknownName

LANGUAGES = ("en", "pt", "es", "fr", "de", "nl", "it", "zh", "ko", "ru")
"""Those of RS-M-CLIP (2410.23370)."""
KINDS = ("plane", "ship", "building")
COLOURS = ("white", "red", "yellow", "black")
GROUNDS = ("grass", "desert", "coast", "water")
MOST = 3
"""Things of a kind at most."""


@dataclass(frozen=True, slots=True)
class KindCount:
    """Number of things of a kind and colour. A road has no colour and is one."""

    kind: str
    count: int = 1
    colour: str = ""


_GROUNDS = {
    "en": ("on grass", "in the desert", "on the coast", "on the water"),
    "pt": ("na relva", "no deserto", "na costa", "na água"),
    "es": ("en la hierba", "en el desierto", "en la costa", "en el agua"),
    "fr": ("sur l'herbe", "dans le désert", "sur la côte", "sur l'eau"),
    "de": ("auf Gras", "in der Wüste", "an der Küste", "auf dem Wasser"),
    "nl": ("op gras", "in de woestijn", "aan de kust", "op het water"),
    "it": ("sull'erba", "nel deserto", "sulla costa", "sull'acqua"),
    "zh": ("草地上", "沙漠中", "海岸边", "水面上"),
    "ko": ("잔디 위에", "사막에", "해안에", "물 위에"),
    "ru": ("на траве", "в пустыне", "на побережье", "на воде"),
}
_AND = {"en": "and", "pt": "e", "es": "y", "fr": "et", "de": "und", "nl": "en", "it": "e", "ru": "и"}
_NUMBERS = {
    "en": ("a", "two", "three"),
    "pt": ("um", "dois", "três"),
    "es": ("un", "dos", "tres"),
    "fr": ("un", "deux", "trois"),
    "de": ("ein", "zwei", "drei"),
    "nl": ("een", "twee", "drie"),
    "it": ("un", "due", "tre"),
    "zh": ("一", "两", "三"),
    "ko": ("한", "두", "세"),
    "ru": ("", "два", "три"),
}
_NOUNS: dict[str, dict[str, tuple[str, ...]]] = {  # singular, then the form after a number above one
    "en": {"plane": ("plane", "planes"), "ship": ("ship", "ships"), "building": ("building", "buildings"), "road": ("road",)},
    "pt": {
        "plane": ("avião", "aviões"),
        "ship": ("navio", "navios"),
        "building": ("edifício", "edifícios"),
        "road": ("estrada",),
    },
    "es": {
        "plane": ("avión", "aviones"),
        "ship": ("barco", "barcos"),
        "building": ("edificio", "edificios"),
        "road": ("carretera",),
    },
    "fr": {
        "plane": ("avion", "avions"),
        "ship": ("bateau", "bateaux"),
        "building": ("bâtiment", "bâtiments"),
        "road": ("route",),
    },
    "de": {
        "plane": ("Flugzeug", "Flugzeuge"),
        "ship": ("Schiff", "Schiffe"),
        "building": ("Gebäude", "Gebäude"),
        "road": ("Straße",),
    },
    "nl": {
        "plane": ("vliegtuig", "vliegtuigen"),
        "ship": ("schip", "schepen"),
        "building": ("gebouw", "gebouwen"),
        "road": ("weg",),
    },
    "it": {"plane": ("aereo", "aerei"), "ship": ("nave", "navi"), "building": ("edificio", "edifici"), "road": ("strada",)},
    "zh": {"plane": ("飞机",), "ship": ("船",), "building": ("建筑",), "road": ("道路",)},
    "ko": {"plane": ("비행기",), "ship": ("선박",), "building": ("건물",), "road": ("도로",)},
    "ru": {
        "plane": ("самолёт", "самолёта"),
        "ship": ("корабль", "корабля"),
        "building": ("здание", "здания"),
        "road": ("дорога",),
    },
}
_ONE_ROAD = {
    "en": "a road",
    "pt": "uma estrada",
    "es": "una carretera",
    "fr": "une route",
    "de": "eine Straße",
    "nl": "een weg",
    "it": "una strada",
    "zh": "一条道路",
    "ko": "도로 한 곳",
    "ru": "дорога",
}
_COLOURS: dict[str, dict[str, tuple[str, ...]]] = {
    # English, Chinese and Korean: one form. Romance: masculine, feminine, and their plurals. German, Dutch: neuter singular, plural.
    # Russian: masculine, neuter, and the genitive plural after numbers.
    "en": {colour: (colour,) for colour in COLOURS},
    "pt": {
        "white": ("branco", "branca", "brancos", "brancas"),
        "red": ("vermelho", "vermelha", "vermelhos", "vermelhas"),
        "yellow": ("amarelo", "amarela", "amarelos", "amarelas"),
        "black": ("preto", "preta", "pretos", "pretas"),
    },
    "es": {
        "white": ("blanco", "blanca", "blancos", "blancas"),
        "red": ("rojo", "roja", "rojos", "rojas"),
        "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
        "black": ("negro", "negra", "negros", "negras"),
    },
    "fr": {
        "white": ("blanc", "blanche", "blancs", "blanches"),
        "red": ("rouge", "rouge", "rouges", "rouges"),
        "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
        "black": ("noir", "noire", "noirs", "noires"),
    },
    "de": {
        "white": ("weißes", "weiße"),
        "red": ("rotes", "rote"),
        "yellow": ("gelbes", "gelbe"),
        "black": ("schwarzes", "schwarze"),
    },
    "nl": {"white": ("wit", "witte"), "red": ("rood", "rode"), "yellow": ("geel", "gele"), "black": ("zwart", "zwarte")},
    "it": {
        "white": ("bianco", "bianca", "bianchi", "bianche"),
        "red": ("rosso", "rossa", "rossi", "rosse"),
        "yellow": ("giallo", "gialla", "gialli", "gialle"),
        "black": ("nero", "nera", "neri", "nere"),
    },
    "zh": {"white": ("白色",), "red": ("红色",), "yellow": ("黄色",), "black": ("黑色",)},
    "ko": {"white": ("흰색",), "red": ("빨간색",), "yellow": ("노란색",), "black": ("검은색",)},
    "ru": {
        "white": ("белый", "белое", "белых"),
        "red": ("красный", "красное", "красных"),
        "yellow": ("жёлтый", "жёлтое", "жёлтых"),
        "black": ("чёрный", "чёрное", "чёрных"),
    },
}
_CLASSIFIERS = {
    "zh": {"plane": "架", "ship": "艘", "building": "栋"},
    "ko": {"plane": "대", "ship": "척", "building": "채"},
}
_ROMANCE = ("pt", "es", "fr", "it")
_FEMININE = {("it", "ship")}
_KOREAN_AND = {"대": "와", "척": "과", "채": "와", "곳": "과"}
_KOREAN_SUBJECT = {"대": "가", "척": "이", "채": "가", "곳": "이"}


def caption(mentions: tuple[KindCount, ...], ground: str, language: str) -> str:
    """Sentence that counts one or two kinds of thing on a ground. Raises UnknownName for a language that is not in the lexicon."""
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    where = _GROUNDS[language][GROUNDS.index(ground)]
    phrases = [_phrase(mention, language) for mention in mentions]
    if language == "zh":
        return f"{where}有{'和'.join(phrases)}"
    if language == "ko":
        joined = " ".join([*(f"{phrase}{_KOREAN_AND[phrase[-1]]}" for phrase in phrases[:-1]), phrases[-1]])
        return f"{where} {joined}{_KOREAN_SUBJECT[joined[-1]]} 있다"
    return f"{f' {_AND[language]} '.join(phrases)} {where}"


def _phrase(mention: KindCount, language: str) -> str:
    if mention.kind == "road":
        return _ONE_ROAD[language]
    nouns, colours = _NOUNS[language][mention.kind], _COLOURS[language][mention.colour]
    noun, several = nouns[-1] if mention.count > 1 else nouns[0], mention.count > 1
    number = _NUMBERS[language][mention.count - 1]
    if language == "zh":
        return f"{number}{_CLASSIFIERS['zh'][mention.kind]}{colours[0]}{noun}"
    if language == "ko":
        return f"{colours[0]} {noun} {number} {_CLASSIFIERS['ko'][mention.kind]}"
    if language in _ROMANCE:
        feminine = (language, mention.kind) in _FEMININE
        if feminine and not several:
            number = "una"
        return f"{number} {noun} {colours[2 * several + feminine]}"
    if language == "ru":
        colour = colours[2] if several else colours[mention.kind == "building"]
        return f"{number} {colour} {noun}".strip()
    return f"{number} {colours[several and len(colours) > 1]} {noun}"
