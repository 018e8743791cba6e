"""What people choose from: faces of a build and their pictures."""
