"""Looking at a run that goes on: progress, the cluster's state, one screen."""
