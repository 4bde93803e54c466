"""From a model and an image of any size to a result that knows its place on earth."""
