"""Networks and their weights. Nothing here imports the stages, the workspace or the CLI."""
