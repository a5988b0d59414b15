"""What exists only while the lab is up: the server, its routes, who may talk to it."""
