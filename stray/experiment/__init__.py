"""Runs of an experiment, their grid and an estimate of their time. Nothing is read or trained here."""
