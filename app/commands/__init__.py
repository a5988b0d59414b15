"""The command line, one module per subject. Importing them is cheap: what is heavy is imported inside the commands."""
