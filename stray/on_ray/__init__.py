"""Everything that knows Ray: sessions, data, workers, experiments, searches, jobs. The only package that imports it."""
