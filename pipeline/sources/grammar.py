"""The grammar behind the bundled sample: words, draws that any Python repeats, and sentences for three tasks.

Each of `cola`, `sst2` and `mrpc` maps draws to one example (text, second text or `None`, class); the class is the one
the grammar meant, before any noise.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["GRAMMARS", "Draws"]

T = TypeVar("T")
Example = tuple[str, str | None, int]


class Draws:
    """A stream of choices fixed by its key alone: hashes of a counter, the same on every machine and version."""

    def __init__(self, key: str) -> None:
        self._key, self._count = key, 0

    def below(self, bound: int) -> int:
        """An integer from 0 to `bound` - 1."""
        self._count += 1
        digest = hashlib.sha256(f"{self._key} {self._count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % bound

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def percent(self, share: int) -> bool:
        """True in `share` of a hundred draws."""
        return self.below(100) < share


def _sentence(words: str) -> str:
    """Words as a sentence; `a(n)` becomes the article that the next word needs."""
    words = re.sub(r"\ba\(n\) (?=[aeiou])", "an ", words).replace("a(n)", "a")
    return words[0].upper() + words[1:] + "."


# --- acceptability ---------------------------------------------------------------------------------------------------

_PEOPLE = [
    "baker", "pilot", "nurse", "gardener", "farmer", "librarian", "tailor", "singer", "lawyer", "painter", "captain",
    "neighbour",
]  # fmt: skip
_THINGS = [
    "letter", "basket", "violin", "lantern", "parcel", "ladder", "kettle", "blanket", "bicycle", "mirror", "notebook",
    "umbrella",
]  # fmt: skip
_PLACES = ["kitchen", "harbour", "garden", "station", "library", "market"]
_ADJECTIVES = ["old", "quiet", "young", "famous", "tired", "tall"]
_LOOKS = ["heavy", "broken", "dusty", "green", "wooden", "new"]
#: Stem, third person, past, participle.
_TRANSITIVE = [
    ("carry", "carries", "carried", "carried"), ("repair", "repairs", "repaired", "repaired"),
    ("sell", "sells", "sold", "sold"), ("hide", "hides", "hid", "hidden"), ("clean", "cleans", "cleaned", "cleaned"),
    ("break", "breaks", "broke", "broken"), ("borrow", "borrows", "borrowed", "borrowed"),
    ("paint", "paints", "painted", "painted"), ("find", "finds", "found", "found"),
    ("steal", "steals", "stole", "stolen"), ("fetch", "fetches", "fetched", "fetched"),
    ("draw", "draws", "drew", "drawn"),
]  # fmt: skip
_INTRANSITIVE = [
    ("sleep", "sleeps", "slept", "slept"), ("arrive", "arrives", "arrived", "arrived"),
    ("laugh", "laughs", "laughed", "laughed"), ("sneeze", "sneezes", "sneezed", "sneezed"),
    ("yawn", "yawns", "yawned", "yawned"), ("vanish", "vanishes", "vanished", "vanished"),
    ("fall", "falls", "fell", "fallen"), ("weep", "weeps", "wept", "wept"),
]  # fmt: skip
_GIVE = [("give", "gives", "gave", "given"), ("lend", "lends", "lent", "lent"), ("show", "shows", "showed", "shown")]
_FAULTS = ["order"] * 13 + ["argument"] * 3 + ["form"] * 3 + ["agreement"]
_WHEN = ["yesterday", "this morning", "last night", "on Tuesday", "before lunch", "after the storm", "in the evening"]


def _person(draws: Draws, plural: bool = False) -> list[str]:
    noun = draws.pick(_PEOPLE) + ("s" if plural else "")
    article = draws.pick(["the", "the", "those" if plural else "that", "my", "our"])
    return [article, *([draws.pick(_ADJECTIVES)] if draws.percent(40) else []), noun]


def _thing(draws: Draws) -> list[str]:
    return [draws.pick(["the", "his", "her", "that"]), *([draws.pick(_LOOKS)] if draws.percent(40) else []),
            draws.pick(_THINGS)]  # fmt: skip


def cola(draws: Draws) -> Example:
    """A sentence that is as it should be (1), or one with a fault of agreement, order or arguments (0)."""
    good = draws.percent(55)
    fault = "" if good else draws.pick(_FAULTS)
    plural = draws.percent(40)
    subject = _person(draws, plural)
    if draws.percent(25):
        subject += ["in" if draws.percent(50) else "from", "the", draws.pick(_PLACES)]
    kind = draws.pick(["transitive", "transitive", "intransitive", "give"])
    stem, third, past, participle = draws.pick(
        {"transitive": _TRANSITIVE, "intransitive": _INTRANSITIVE, "give": _GIVE}[kind]
    )
    have, wrong_have = ("have", "has") if plural else ("has", "have")
    present, wrong_present = (stem, third) if plural else (third, stem)
    tense = draws.pick(["past", "present", "perfect", "will", "did not"])
    verb = {
        "past": [past], "present": ["often", present], "perfect": [have, participle], "will": ["will", stem],
        "did not": ["did", "not", stem],
    }[tense]  # fmt: skip
    if fault == "agreement":
        verb = ["often", wrong_present] if draws.percent(50) else [wrong_have, participle]
    elif fault == "form":
        wrong = [["is", have, stem], ["will", "has", third], ["did", "not", participle, "be"], ["to", "was", past]]
        verb = draws.pick(wrong)
    if fault == "argument":
        # A transitive verb without its object, an intransitive one with an object, a recipient without its `to`.
        objects = {
            "transitive": ["to", *_person(draws)], "intransitive": _thing(draws) + _person(draws),
            "give": ["of", *_thing(draws), "the"],
        }[kind]  # fmt: skip
    elif kind == "transitive":
        objects = _thing(draws)
    elif kind == "give":
        objects = [*_thing(draws), "to", *_person(draws)]
    else:
        objects = draws.pick([["in", "the", draws.pick(_PLACES)], ["behind", "the", draws.pick(_PLACES)], ["again"]])
    words = subject + verb + objects
    if fault == "order":
        words = _disordered(draws, subject, verb, objects)
    when = draws.pick(_WHEN).split() if tense in ("past", "did not") and draws.percent(50) else []
    return _sentence(" ".join(words + when)), None, int(good)


def _disordered(draws: Draws, subject: list[str], verb: list[str], objects: list[str]) -> list[str]:
    """The words in an order that English has not."""
    kind = draws.below(4)
    if kind == 0:
        return objects[::-1] + subject[::-1] + verb
    if kind == 1:
        return verb[::-1] + objects[::-1] + subject
    if kind == 2:
        return [subject[-1], *objects[::-1], *subject[:-1], *verb]
    words = subject + verb + objects
    return words[1::2] + words[::2]


# --- sentiment -------------------------------------------------------------------------------------------------------

_VENUES = [
    ("film", ["plot", "cast", "camera work", "ending", "dialogue", "music"]),
    ("novel", ["plot", "prose", "ending", "opening chapter", "heroine"]),
    ("restaurant", ["soup", "service", "menu", "dessert", "seating"]),
    ("hotel", ["room", "breakfast", "staff", "view", "bed"]),
    ("concert", ["sound", "singer", "lighting", "choice of songs", "encore"]),
    ("museum", ["guide", "main hall", "shop", "new wing", "audio tour"]),
    ("train journey", ["seat", "timetable", "scenery", "conductor", "dining car"]),
    ("game", ["story", "controls", "graphics", "tutorial", "final level"]),
]
_GOOD = [
    "delightful", "superb", "charming", "clever", "excellent", "refreshing", "lovely", "moving", "first-rate",
    "generous", "memorable", "polished", "warm", "impressive",
]  # fmt: skip
_BAD = [
    "dreadful", "tedious", "clumsy", "disappointing", "shabby", "lifeless", "awful", "confusing", "stale", "careless",
    "forgettable", "overpriced", "cold", "irritating",
]  # fmt: skip
_GOOD_ACTS = ["made me smile all day", "was worth every penny", "won us over at once", "left me wanting more"]
_BAD_ACTS = ["wasted my whole evening", "was not worth the fare", "put us off at once", "left me counting the minutes"]
_DEGREES = ["", "", "rather ", "truly ", "quite ", "remarkably ", "simply "]


def sst2(draws: Draws) -> Example:
    """An opinion with the word for it plain, denied, or weighed against another one; 1 where it is favourable."""
    good = draws.percent(54)
    venue, parts = draws.pick(_VENUES)
    part = draws.pick(parts)
    other = draws.pick([name for name in parts if name != part])
    degree, second = draws.pick(_DEGREES), draws.pick(_DEGREES)
    same, opposite = (_GOOD, _BAD) if good else (_BAD, _GOOD)
    act = draws.pick(_GOOD_ACTS if good else _BAD_ACTS)
    word, against = draws.pick(same), draws.pick(opposite)
    form = draws.below(10)
    if form < 3:
        text = f"the {part} of this {venue} was {degree}{word} and the {other} {second}{draws.pick(same)}"
    elif form < 5:
        text = f"a(n) {word} {venue} whose {part} {act}"
    elif form < 6:
        text = f"I expected a(n) {against} {venue}, but it {act}"
    elif form < 8:
        text = f"although the {part} was {degree}{against}, the {venue} as a whole was {second}{word}"
    elif form < 9:
        text = f"nobody could call the {part} of this {venue} {against}"
    else:
        text = f"the {venue} was {against} at first, yet by the end it was {degree}{word}"
    return _sentence(text), None, int(good)


# --- paraphrase ------------------------------------------------------------------------------------------------------

_FIRMS = [
    "Norvale Foods", "the Hartwell council", "Pinebrook Bank", "Calder Rail", "the Osmund Museum", "Larkfield College",
    "the Tarn Valley hospital", "Brightwater Ferries", "Quillon Press", "the Marlow orchestra",
]  # fmt: skip
#: Past, participle, and a synonym's past and participle.
_DEEDS = [
    (("bought", "bought"), ("purchased", "purchased")), (("opened", "opened"), ("inaugurated", "inaugurated")),
    (("closed", "closed"), ("shut down", "shut down")), (("repaired", "repaired"), ("restored", "restored")),
    (("praised", "praised"), ("commended", "commended")), (("sold", "sold"), ("disposed of", "disposed of")),
]  # fmt: skip
_TARGETS = [("warehouse", "depot"), ("bridge", "crossing"), ("theatre", "playhouse"), ("school", "academy"),
            ("ship", "vessel"), ("factory", "plant"), ("stadium", "arena"), ("farm", "estate")]  # fmt: skip
_TOWNS = ["Elmstead", "Dunmore", "Ashby Cross", "Port Ellis", "Weston Hill", "Kirkvale", "Saltmarsh", "Fernley"]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
_COSTS = ["two", "three", "five", "seven", "nine", "twelve", "twenty", "forty"]


def mrpc(draws: Draws) -> Example:
    """Two reports of one event in different words (1), or of events that differ in a fact (0)."""
    same = draws.percent(58)
    firm, (deed, synonym) = draws.pick(_FIRMS), draws.pick(_DEEDS)
    target, town, day, cost = draws.pick(_TARGETS), draws.pick(_TOWNS), draws.pick(_DAYS), draws.pick(_COSTS)
    first = _report(draws, firm, deed, target[0], town, day, cost)
    change = "" if same else draws.pick(["deny", "deny", "plan", "plan", "other", "other", "town", "swap"])
    verb = synonym if draws.percent(60) else deed
    noun = target[1] if draws.percent(60) else target[0]
    if change in ("deny", "plan"):
        return first, _unreal(draws, change, firm, noun, town, day), 0
    if change == "other":
        verb = draws.pick([d for d in _DEEDS if d[0] != deed])[0]
        noun, cost = draws.pick([t for t in _TARGETS if t != target])[0], draws.pick(_COSTS)
        firm = draws.pick(_FIRMS)
    elif change == "town":
        town, day = draws.pick([t for t in _TOWNS if t != town]), draws.pick([d for d in _DAYS if d != day])
    elif change == "swap":
        firm = draws.pick([f for f in _FIRMS if f != firm])
    second = _report(draws, firm, verb, noun, town, day, cost)
    while second == first:
        second = _report(draws, firm, verb, noun, town, day, cost)
    return first, second, int(same)


def _report(draws: Draws, firm: str, deed: tuple[str, str], noun: str, town: str, day: str, cost: str) -> str:
    price = f"at a cost of {cost} million crowns"
    return _sentence(
        draws.pick([
            f"{firm} {deed[0]} a(n) {noun} in {town} on {day} {price}",
            f"on {day} {firm} {deed[0]} a(n) {noun} in {town}, {price}",
            f"a(n) {noun} in {town} was {deed[1]} by {firm} on {day} {price}",
            f"in {town}, {firm} {deed[0]} a(n) {noun} {price} on {day}",
        ])
    )  # fmt: skip


def _unreal(draws: Draws, change: str, firm: str, noun: str, town: str, day: str) -> str:
    if change == "deny":
        return _sentence(
            draws.pick([
                f"{firm} denied on {day} that it had any interest in a(n) {noun} in {town}",
                f"on {day} {firm} abandoned its bid for a(n) {noun} in {town}",
                f"nothing was decided on {day} about a(n) {noun} in {town}, {firm} said",
            ])
        )  # fmt: skip
    return _sentence(
        draws.pick([
            f"{firm} may decide on {day} what to do with a(n) {noun} in {town}",
            f"a decision by {firm} about a(n) {noun} in {town} is expected on {day}",
            f"on {day} {firm} will ask for advice about a(n) {noun} in {town}",
        ])
    )  # fmt: skip


GRAMMARS: dict[str, Callable[[Draws], Example]] = {"cola": cola, "sst2": sst2, "mrpc": mrpc}
