"""Job: schema, defaults, overrides with their origin."""
