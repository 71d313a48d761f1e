"""Gene stage: scVI, scANVI and the models that are fitted in one pass."""
