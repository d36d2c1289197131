"""A link to the portal, made beside the service: for support, the demo, and for trying it out."""

from collections.abc import Sequence

from sqlalchemy import select

from entitlements.access import tokens
from entitlements.kernel.errors import NotFound, ValidationFailed
from entitlements.kernel.signing import Signer
from entitlements.server.portal.sessions import Codes, link
from entitlements.settings import Settings
from entitlements.storage.engine import create_engine
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.tables import CustomerRow


async def made_link(
    settings: Settings,
    customer_id: str,
    *,
    scopes: Sequence[str],
    ttl_seconds: int,
    subject: str | None,
) -> str:
    """A link that is good once. Needs a database, the signing keys and `public_url`, and nothing
    of the provider's. Raises `NotFound`, and `ValidationFailed` for what is missing."""
    for name, wanted in (
        ("DATABASE_URL", settings.database_url),
        ("SIGNING_KEYS", settings.signing_secrets),
        ("PUBLIC_URL", settings.public_url),
    ):
        if not wanted:
            words = f"ENTITLEMENTS_{name} is needed to make a link"
            raise ValidationFailed.of(f"ENTITLEMENTS_{name}", "MISSING", words)
    signer = Signer(settings.signing_secrets)
    database = Database(create_engine(settings.database_url))
    try:
        async with database.read() as session:
            query = select(CustomerRow.token_generation).where(CustomerRow.id == customer_id)
            generation = await session.scalar(query)
        if generation is None:
            raise NotFound("customer", customer_id)
        issued = tokens.issue(
            signer,
            customer_id,
            generation,
            scopes=scopes,
            ttl_seconds=ttl_seconds,
            subject=subject,
        )
        return link(settings.public_url, Codes(signer, database).issue(issued.token))
    finally:
        await database.close()
