"""Flow Service and what stands beside it: entities, filters, validation, specs, datasets."""
