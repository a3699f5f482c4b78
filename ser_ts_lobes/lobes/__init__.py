"""Network blocks: encoders, pooling and the emotion model."""
