"""Tracking of parameters, metrics, artifacts and models. Only `stray.track.mlflow` knows MLflow."""
