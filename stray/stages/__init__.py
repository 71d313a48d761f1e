"""The stages of a training: their settings, their runs and the folders of their results."""
