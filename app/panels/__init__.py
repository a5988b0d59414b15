"""What each technique draws of a run and adds to a report: one folder per technique, named as its setting."""
