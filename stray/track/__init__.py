"""Tracking of parameters, metrics, artifacts and models. Only the modules `stray.track.mlflow*` import MLflow."""
