"""Training the encoders with their own objectives."""
