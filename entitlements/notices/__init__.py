"""What subscribers are told: outgoing webhooks, appended where they happen, delivered later."""
