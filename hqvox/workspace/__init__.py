"""What lies on disk: storage, the layout of a workspace, its tables and shards."""
