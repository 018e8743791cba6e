"""What a build did, for people: the funnel, picture galleries, and the HTML report."""
