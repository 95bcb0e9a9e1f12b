"""What a run has on a Ray cluster: a connection, reserved resources, deployed services."""
