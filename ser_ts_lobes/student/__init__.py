"""A student as it is shared: loaded, predicting, exported."""
