"""The method: losses, residuals, targets, features, datasets and the Brains that train."""
