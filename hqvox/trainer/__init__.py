"""Training and evaluating speech-to-face models on a release."""
