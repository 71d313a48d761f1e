"""Where parameters, metrics, artifacts and models of a run go. Only `stray.track.mlflow` knows MLflow."""
