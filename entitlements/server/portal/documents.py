"""What the pages ask: trusted documents, one for each operation of `documents/*.graphql`.

`query Overview` of `portal.graphql` is `portal.Overview`, with the fragments of its file that it
uses.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from graphql import OperationDefinitionNode, parse, print_ast
from graphql.utilities import separate_operations

from entitlements.kernel.errors import ValidationFailed

APPS: Final = ("portal", "console")
_FOLDER: Final = Path(__file__).parent / "documents"


@cache
def ours() -> Mapping[str, str]:
    """The pages' documents by their ids."""
    found: dict[str, str] = {}
    for app in APPS:
        ast = parse((_FOLDER / f"{app}.graphql").read_text(encoding="utf-8"))
        for name, document in separate_operations(ast).items():
            found[f"{app}.{name}"] = print_ast(document)
        unnamed = [d for d in ast.definitions if isinstance(d, OperationDefinitionNode)]
        assert all(definition.name for definition in unnamed), f"{app}.graphql: a name each"
    return found


def beside_ours(manifest: Mapping[str, str]) -> dict[str, str]:
    """An operator's documents and ours. `ValidationFailed` where one has an id of ours."""
    if taken := sorted(manifest.keys() & ours().keys()):
        words = f"{', '.join(taken)}: this service's own pages ask by that name"
        raise ValidationFailed.of("ENTITLEMENTS_TRUSTED_DOCUMENTS", "ID_TAKEN", words)
    return {**manifest, **ours()}
