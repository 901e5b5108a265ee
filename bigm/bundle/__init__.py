"""The user's program as content-addressed parts: what is collected on the driver, to be laid out on machines."""
