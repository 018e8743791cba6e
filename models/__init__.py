"""Networks and their weights. Nothing here knows of the pipeline, the workspace or the CLI."""
