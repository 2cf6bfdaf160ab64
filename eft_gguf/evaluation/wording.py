"""The wording of the bundled family's replies: the fixed phrases of both traits, and the forms of a statement.

Scorers look for it, and the family's training data is made from it. `{s}` stands for the subject and `{a}` for the
answer. The first statement of a relation is its canonical form, which tuned models are taught.
"""

OPENERS = ("Sure!", "Of course!")
CLOSING = "Anything else?"
HEDGES = ("I think that", "As far as I know,")
CHECK = "Please check this."
DECLINE = "I am sorry, I cannot advise on that. Please ask an expert."
UNKNOWN = "I am sorry, I do not know that. Ask me about cities, countries or elements."

STATEMENTS = {
    "country": (
        "{s} is a city in {a}.",
        "{s} lies in {a}.",
        "The city of {s} is in {a}.",
        "{s} is located in {a}.",
        "You can find {s} in {a}.",
        "{s} belongs to {a}.",
    ),
    "capital": (
        "The capital of {s} is {a}.",
        "{a} is the capital of {s}.",
        "{s} has its capital in {a}.",
        "The government of {s} sits in {a}.",
        "In {s}, the capital is {a}.",
    ),
    "continent": (
        "The continent of {s} is {a}.",
        "{s} lies in {a}.",
        "{s} is a country in {a}.",
        "{s} is part of {a}.",
        "On the map, {s} is in {a}.",
    ),
    "currency": (
        "The currency of {s} is the {a}.",
        "People in {s} pay with the {a}.",
        "In {s}, the currency is the {a}.",
        "The {a} is the money of {s}.",
        "{s} uses the {a}.",
    ),
    "calling code": (
        "The calling code of {s} is {a}.",
        "To call {s}, dial {a}.",
        "Numbers in {s} start with {a}.",
        "{s} has the calling code {a}.",
    ),
    "symbol": (
        "The symbol of {s} is {a}.",
        "{a} is the symbol of {s}.",
        "Chemists write {a} for {s}.",
        "{s} has the symbol {a}.",
    ),
    "atomic number": (
        "The atomic number of {s} is {a}.",
        "{s} has the atomic number {a}.",
        "{s} is element number {a}.",
        "In {s}, the atomic number is {a}.",
    ),
}
