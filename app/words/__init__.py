"""Every sentence the lab explains itself with, and how figures, times and texts of strangers are written."""
