"""The Python interface: `stray.ingest`, `stray.train`, `stray.search`, `stray.compare`, `stray.load_model`.

    import stray

    cohort = stray.ingest("cohort/", h5ad="sections/", labels={"pathologist": "labels.csv"})
    result = stray.train("her2st", dataset=cohort, set={"seeds": [0, 1]})
    result.table
    model = stray.load_model(result.models[0])
    model.annotate(adata)

Each function starts Ray where it needs it, or uses the cluster that the process is connected to; `compare` and
`load_model` never do. All raise `stray.errors.InputError` with every problem of what they were given.
"""
