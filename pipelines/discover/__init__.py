"""Where candidate photographs are: one file per source."""
