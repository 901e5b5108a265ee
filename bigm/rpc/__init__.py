"""Calls between two processes of a cluster: names and certificates, wire, codec, client, server."""
