"""The house's own rules, each one a test that fails."""
