"""Starting the review server and opening its workspace."""
