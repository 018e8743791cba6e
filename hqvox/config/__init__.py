"""Settings of hqvox.yaml: every option with its unit, default and source."""
