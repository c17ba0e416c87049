"""Devices of this process served to another VMM as a vhost-user back end."""
