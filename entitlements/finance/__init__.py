"""Finance: what prices and their changes are worth, and why a line has its amount."""
