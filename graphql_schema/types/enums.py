"""How an enum of the domain gets into the schema: its members' names, each with a description."""

from enum import EnumType
from typing import Any

import strawberry


def describe_enum(enum: EnumType, description: str, /, **members: str) -> None:
    """Make a domain enum usable as a type of the schema, under its own name.

    `members` says what each member means, by its name; `TypeError` if one is missing or unknown.
    Called once for each enum, beside the type that uses it first.
    """
    if members.keys() != enum.__members__.keys():
        unsaid = enum.__members__.keys() ^ members.keys()
        raise TypeError(f"{enum.__name__} and its descriptions differ in {sorted(unsaid)}")
    definition: Any = strawberry.enum(enum, description=description)
    for value in definition.__strawberry_definition__.values:
        value.description = members[value.name]
