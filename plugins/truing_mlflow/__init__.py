"""Runs told to MLflow: the observer `mlflow`."""
