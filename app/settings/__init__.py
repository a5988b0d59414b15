"""Settings of the engine as a person meets them: controls read from its schema, the form, what a run was given."""
