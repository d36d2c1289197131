"""Every setting, read from `ENTITLEMENTS_…` in the environment. The README lists them."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from entitlements.kernel.errors import Issue, ValidationFailed

Csv = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """How one process runs. A wrong value names its variable and refuses the start."""

    model_config = SettingsConfigDict(env_prefix="ENTITLEMENTS_", frozen=True)

    database_url: str = Field(
        default="", description="sqlite+aiosqlite:///ABSOLUTE or postgresql+asyncpg://…"
    )
    stripe_api_key: SecretStr = Field(default=SecretStr(""), description="rk_… or sk_…")
    stripe_api_base: str = Field(
        default="", description="Where the SDK calls, if not Stripe itself: the sandbox"
    )
    stripe_webhook_secret: SecretStr = Field(default=SecretStr(""), description="whsec_…")
    stripe_publishable_key: str = Field(default="", description="pk_…, handed to front ends")
    admin_key: SecretStr = Field(
        default=SecretStr(""), description="An admin API key that exists from the first start"
    )
    signing_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated; the first signs, all verify. Unset: from the admin key",
    )
    oidc_issuer: str = Field(default="", description="Whose bearer tokens make staff: an https URL")
    oidc_audience: str = Field(default="", description="For whom those tokens are: this service")
    oidc_roles_claim: str = Field(
        default="roles", description="The claim that names roles; dots go into objects"
    )
    oidc_roles: Csv = Field(
        default=(), description="Comma-separated VALUE=ROLE; the first that a token names counts"
    )
    sandbox: bool = Field(
        default=False, description="The clock may be advanced, test payment methods are taken"
    )
    require_second_approver: bool = Field(
        default=True, description="Nobody approves their own proposal"
    )
    public_url: str = Field(
        default="",
        description="Where people reach this service, an origin; unset: as each request names it",
    )
    return_origins: Csv = Field(
        default=(), description="Comma-separated origins that return URLs may have"
    )

    snapshots_at_most: int = Field(
        default=10_000, ge=1, description="Of how many customers a process remembers the grants"
    )

    trusted_documents: Path | None = Field(
        default=None, description="A JSON file of documents by id, which come by `documentId`"
    )
    trusted_documents_only: bool = Field(
        default=False, description="Publishable keys and customer tokens send no others"
    )

    cors_origins: Csv = Field(
        default=(), description="Comma-separated origins whose pages may ask; * for any"
    )
    request_bytes_at_most: int = Field(
        default=100_000, ge=1_000, description="How long the body of a GraphQL request may be"
    )
    document_tokens_at_most: int = Field(default=2_000, ge=1, description="Words of a document")
    document_depth_at_most: int = Field(default=15, ge=1, description="Levels of a document")
    document_aliases_at_most: int = Field(default=50, ge=0, description="Aliases in a document")
    document_root_fields_at_most: int = Field(
        default=20, ge=1, description="Root fields of a document"
    )
    document_objects_at_most: int = Field(
        default=200_000, ge=1, description="Objects that a document may have us answer"
    )
    query_seconds_at_most: float = Field(
        default=30.0, gt=0, description="How long a query may take before it is given up"
    )
    requests_per_second: float = Field(
        default=0, ge=0, description="Of one key, in each process; 0: as many as there are"
    )
    public_requests_per_second: float = Field(
        default=50, ge=0, description="Of one customer token, or of one address with one public key"
    )
    streams_at_most: int = Field(
        default=1_000, ge=0, description="Subscriptions of one principal, in each process"
    )

    @field_validator("signing_keys", "return_origins", "oidc_roles", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 16:
            raise ValueError("an admin key has at least 16 characters")
        return value

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        origin = value.rstrip("/")
        if origin and not re.fullmatch(r"https?://[^/?#@\s]+", origin):
            raise ValueError("an origin: https://billing.example.com")
        return origin

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """The secrets that tokens are signed with, the first in use; empty refuses the start."""
        if self.signing_keys:
            return tuple(key.get_secret_value() for key in self.signing_keys)
        admin_key = self.admin_key.get_secret_value()
        return (admin_key,) if admin_key else ()

    def check(self) -> None:
        """Refuse a start that could not be right: each reason names its setting."""
        key = self.stripe_api_key.get_secret_value()
        issues: list[tuple[str, str, str]] = []
        if not self.database_url:
            issues.append(("DATABASE_URL", "MISSING", "a database URL is needed"))
        if not self.signing_secrets:
            issues.append(("SIGNING_KEYS", "MISSING", "signing keys or an admin key are needed"))
        if self.sandbox and key.startswith(("sk_live_", "rk_live_")):
            issues.append(("SANDBOX", "LIVE_KEY", "sandbox mode with a live Stripe key"))
        if self.sandbox and not self.stripe_api_base:
            issues.append(("STRIPE_API_BASE", "MISSING", "sandbox mode needs a Stripe base"))
        if not key:
            issues.append(("STRIPE_API_KEY", "MISSING", "a Stripe API key is needed"))
        if issues:
            raise ValidationFailed(
                [Issue((f"ENTITLEMENTS_{name}",), code, text) for name, code, text in issues]
            )


def load_settings(**overrides: Any) -> Settings:
    """The environment's settings, `overrides` winning; `ValidationFailed` names each mistake."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ValidationFailed(
            [
                Issue(
                    ("ENTITLEMENTS_" + "_".join(str(p).upper() for p in e["loc"]),),
                    e["type"].upper(),
                    e["msg"],
                )
                for e in error.errors(include_input=False)
            ]
        ) from None
