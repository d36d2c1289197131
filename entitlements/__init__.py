"""Pricing, packaging and entitlements for SaaS. `README.md` has the map of the house."""
